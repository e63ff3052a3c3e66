//! What a block says of its parameters, and the macro by which its one list of them becomes a struct as well.

use std::borrow::Cow;

/// What a parameter is to those that store it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A large matrix that a linear layer multiplies by: it may be quantised, and decays in training.
    Matrix,
    /// A matrix that a linear layer multiplies by as well, too small or too sensitive to be quantised (docs/quantisation.md).
    Exact,
    /// The logarithm of a decay: backends hold `decay_rate` of it.
    ALog,
    /// All else: vectors, convolutions.
    Other,
}

impl Role {
    /// That of the parameter of a name.
    pub(crate) fn of(params: &[Param], name: &str) -> Self {
        params.iter().find(|param| param.name == name).map_or(Role::Other, |param| param.role)
    }
}

/// How a parameter begins, as mamba-ssm has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    Constant(f32),
    /// Uniform within +-1/sqrt(inputs).
    Linear {
        inputs: usize,
    },
    /// The same by the square root of the number of layers smaller: what adds to the residual stream.
    Output {
        inputs: usize,
    },
    /// Uniform in +-x.
    Uniform(f32),
    /// ln(1 .. columns) in every row.
    ALog,
    /// The logarithm of a number drawn uniformly from 1 to 16.
    UniformALog,
    /// Such that softplus gives a delta that is log-uniform between the bounds of the model.
    DtBias,
}

/// A parameter of a block.
#[derive(Debug, Clone, PartialEq)]
pub struct Param {
    /// Without what stands before it in a file: `mixer.in_proj.weight`.
    pub name: Cow<'static, str>,
    pub shape: Vec<usize>,
    /// The shape in the paper's terms, for messages.
    pub symbols: &'static str,
    pub role: Role,
    pub init: Init,
    /// A model may do without.
    pub optional: bool,
}

/// A parameter that every model has, one that it may lack, and one that lies in several tensors, of which each has a name of its own.
pub type Required<T> = T;
pub type Optional<T> = Option<T>;
pub type Each<T> = Vec<(String, T)>;

/// From one list: `Shape::params`, and `Weights<T>` with its walks. A line is `Required`, `Optional` or `Each`, the field, its name in a
/// file, then (symbols, shape), role and init, which see the shape as `$s`. Of `Each` the shape is a tensor's, and `Shape::each` says
/// what they are called.
macro_rules! parameters {
    ($s:ident; $($need:ident $field:ident $name:literal: ($symbols:literal, $shape:expr), $role:expr, $init:expr;)*) => {
        impl Shape {
            /// The one list of parameters, in the order of the forward pass.
            pub fn params(&self) -> Vec<Param> {
                let $s = self;
                [$(parameters!(@list $need $s $name, $symbols, $shape, $role, $init)),*].concat()
            }
        }

        /// A layer's parameters, as what each of them is to somebody; their shapes are in the list.
        #[derive(Debug, Clone)]
        pub struct Weights<T> {
            $(pub $field: $need<T>,)*
        }

        impl<T> Weights<T> {
            pub(crate) fn build<E>(
                shape: &Shape,
                has: &mut dyn FnMut(&Param) -> bool,
                take: &mut dyn FnMut(&Param) -> Result<T, E>,
            ) -> Result<Self, E> {
                let $s = shape;
                Ok(Self {
                    $($field: {
                        let params = parameters!(@list $need $s $name, $symbols, $shape, $role, $init);
                        parameters!(@take $need params has take)
                    },)*
                })
            }

            pub(crate) fn for_each<'a>(&'a self, f: &mut dyn FnMut(&'a str, &'a T)) {
                $(parameters!(@visit $need f $name (&self.$field));)*
            }

            pub(crate) fn map<U, E>(&self, f: &mut dyn FnMut(&str, &T) -> Result<U, E>) -> Result<Weights<U>, E> {
                Ok(Weights { $($field: parameters!(@map $need f $name (&self.$field)),)* })
            }

            pub(crate) fn join<U, E>(&self, f: &mut $crate::model::blocks::Join<'_, T, U, E>) -> Result<Weights<U>, E> {
                Ok(Weights { $($field: parameters!(@join $need f $name (&self.$field)),)* })
            }
        }
    };
    (@list Required $s:ident $name:literal, $symbols:literal, $shape:expr, $role:expr, $init:expr) => {
        vec![parameters!(@param $name.into(), $symbols, $shape, $role, $init, false)]
    };
    (@list Optional $s:ident $name:literal, $symbols:literal, $shape:expr, $role:expr, $init:expr) => {
        vec![parameters!(@param $name.into(), $symbols, $shape, $role, $init, true)]
    };
    (@list Each $s:ident $name:literal, $symbols:literal, $shape:expr, $role:expr, $init:expr) => {{
        let param = |name: String| parameters!(@param name.into(), $symbols, $shape, $role, $init, false);
        $s.each($name).into_iter().map(param).collect::<Vec<_>>()
    }};
    (@param $name:expr, $symbols:literal, $shape:expr, $role:expr, $init:expr, $optional:literal) => {
        Param { name: $name, symbols: $symbols, shape: $shape.to_vec(), role: $role, init: $init, optional: $optional }
    };
    (@take Required $params:ident $has:ident $take:ident) => { $take(&$params[0])? };
    (@take Optional $params:ident $has:ident $take:ident) => {
        if $has(&$params[0]) { Some($take(&$params[0])?) } else { None }
    };
    (@take Each $params:ident $has:ident $take:ident) => {
        $params.iter().map(|param| Ok((param.name.to_string(), $take(param)?))).collect::<Result<Vec<_>, E>>()?
    };
    (@visit Required $f:ident $name:literal $value:expr) => { $f($name, $value) };
    (@visit Optional $f:ident $name:literal $value:expr) => {
        if let Some(value) = $value { $f($name, value) }
    };
    (@visit Each $f:ident $name:literal $value:expr) => {
        for (name, value) in $value { $f(name, value) }
    };
    (@map Required $f:ident $name:literal $value:expr) => { $f($name, $value)? };
    (@map Optional $f:ident $name:literal $value:expr) => {
        match $value { Some(value) => Some($f($name, value)?), None => None }
    };
    (@map Each $f:ident $name:literal $value:expr) => {
        $value.iter().map(|(name, value)| Ok((name.clone(), $f(name, value)?))).collect::<Result<Vec<_>, E>>()?
    };
    (@join Required $f:ident $name:literal $value:expr) => { $f($name, &[$value])? };
    (@join Optional $f:ident $name:literal $value:expr) => {
        match $value { Some(value) => Some($f($name, &[value])?), None => None }
    };
    (@join Each $f:ident $name:literal $value:expr) => {
        match $value.first() {
            Some((name, _)) => {
                let all: Vec<&T> = $value.iter().map(|(_, value)| value).collect();
                vec![(name.clone(), $f(name, &all)?)]
            }
            None => Vec::new(),
        }
    };
}

pub(super) use parameters;
