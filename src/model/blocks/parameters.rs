//! What a block says of its parameters, and the macro by which its one list of them becomes a struct as well.

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
    pub name: &'static str,
    pub shape: Vec<usize>,
    /// The shape in the paper's terms, for messages.
    pub symbols: &'static str,
    pub role: Role,
    pub init: Init,
    /// A model may do without.
    pub optional: bool,
}

/// A parameter that every model has, and one that it may lack.
pub type Required<T> = T;
pub type Optional<T> = Option<T>;

/// From one list: `Shape::params`, and `Weights<T>` with its walks. A line is `Required` or `Optional`, the field, its name in a
/// file, then (symbols, shape), role and init, which see the shape as `$s`.
macro_rules! parameters {
    ($s:ident; $($need:ident $field:ident $name:literal: ($symbols:literal, $shape:expr), $role:expr, $init:expr;)*) => {
        impl Shape {
            /// The one list of parameters, in the order of the forward pass.
            pub fn params(&self) -> Vec<Param> {
                let $s = self;
                vec![$(parameters!(@param $need $name, $symbols, $shape, $role, $init)),*]
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
                        let param = parameters!(@param $need $name, $symbols, $shape, $role, $init);
                        parameters!(@take $need param has take)
                    },)*
                })
            }

            pub(crate) fn for_each<'a>(&'a self, f: &mut dyn FnMut(&'static str, &'a T)) {
                $(parameters!(@visit $need f $name (&self.$field));)*
            }

            pub(crate) fn map<U, E>(
                &self,
                f: &mut dyn FnMut(&'static str, &T) -> Result<U, E>,
            ) -> Result<Weights<U>, E> {
                Ok(Weights { $($field: parameters!(@map $need f $name (&self.$field)),)* })
            }
        }
    };
    (@param Required $name:literal, $symbols:literal, $shape:expr, $role:expr, $init:expr) => {
        Param { name: $name, symbols: $symbols, shape: $shape.to_vec(), role: $role, init: $init, optional: false }
    };
    (@param Optional $name:literal, $symbols:literal, $shape:expr, $role:expr, $init:expr) => {
        Param { name: $name, symbols: $symbols, shape: $shape.to_vec(), role: $role, init: $init, optional: true }
    };
    (@take Required $param:ident $has:ident $take:ident) => { $take(&$param)? };
    (@take Optional $param:ident $has:ident $take:ident) => {
        if $has(&$param) { Some($take(&$param)?) } else { None }
    };
    (@visit Required $f:ident $name:literal $value:expr) => { $f($name, $value) };
    (@visit Optional $f:ident $name:literal $value:expr) => {
        if let Some(value) = $value { $f($name, value) }
    };
    (@map Required $f:ident $name:literal $value:expr) => { $f($name, $value)? };
    (@map Optional $f:ident $name:literal $value:expr) => {
        match $value { Some(value) => Some($f($name, value)?), None => None }
    };
}

pub(super) use parameters;
