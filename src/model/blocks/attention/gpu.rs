//! A layer of attention by the kernels.

use super::{Shape, Weights};
use crate::gpu::{Gpu, GpuError, PlanBuilder, Tensor};
use crate::kernels::{self, HeadNorms, Pages, RopeBuffers, TokensOf, WeightMatrix};
use crate::model::blocks::device::{dense, stacked_bias, Chunk, Host, LayerState, Numbers, Stream, Way};
use crate::reference::{PAGE, ROTATIONS};
use std::slice::from_ref;

/// A layer's weights on a device.
pub(crate) struct Layer {
    pub shape: Shape,
    norm: Option<WeightMatrix>,
    qkv: Vec<WeightMatrix>, // (d_qkv, d_model)
    qkv_bias: Option<Tensor>,
    norms: Option<Tensor>, // (2, head_dim)
    /// Whether queries go through a norm, and keys.
    normed: (bool, bool),
    pub o_proj: WeightMatrix,
    o_bias: Option<WeightMatrix>,
}

/// The activations of a chunk of up to L tokens, and what rotates them; all layers share them.
pub(crate) struct Workspace {
    qkv: Tensor, // (L, heads + 2 kv_heads, head_dim), L up to whole COOP_TILEs where cooperative matrices write it
    q: Tensor,   // (L, heads, head_dim)
    y: Tensor,   // (L, heads, head_dim)
    rotations: Tensor,
    /// (L, d_model), tall as qkv: what is added to the output of the block beside it.
    beside: Option<Tensor>,
}

impl Workspace {
    /// For layers like `layer`, which are rotated alike.
    pub fn new(gpu: &Gpu, layer: &Layer, l: usize, numbers: &mut Numbers) -> Result<Self, GpuError> {
        numbers.end(gpu)?;
        let (s, tall) = (&layer.shape, numbers.tall(gpu, l));
        let rotations = match &s.rope {
            Some(rope) => kernels::rotations(&rope.frequencies(), rope.factor()),
            None => vec![0.0; 2],
        };
        Ok(Self {
            qkv: Tensor::zeros(gpu, "queries, keys and values", tall * s.d_qkv())?,
            q: Tensor::zeros(gpu, "queries", l * s.d_q())?,
            y: numbers.factor(Tensor::zeros(gpu, "attended", l * s.d_q())?),
            rotations: Tensor::new(gpu, "rotations", &rotations)?,
            beside: s.beside.then(|| Tensor::zeros(gpu, "attention beside", tall * s.d_model)).transpose()?,
        })
    }
}

impl Layer {
    /// `host`: a parameter's values as they are stored.
    pub fn new<E: From<GpuError>>(
        gpu: &Gpu,
        s: Shape,
        w: Weights<WeightMatrix>,
        host: &mut Host<'_, E>,
    ) -> Result<Self, E> {
        let biases = [("mixer.q_proj.bias", s.d_q()), ("mixer.k_proj.bias", s.d_kv()), ("mixer.v_proj.bias", s.d_kv())];
        let qkv_bias = stacked_bias(gpu, &biases.map(|(name, n)| (name, n, s.factor(name))), host)?;
        let (q_norm, k_norm) = (host("mixer.q_norm.weight")?, host("mixer.k_norm.weight")?);
        let normed = (q_norm.is_some(), k_norm.is_some());
        let weights = [q_norm, k_norm].map(|norm| norm.unwrap_or_else(|| vec![1.0; s.head_dim])).concat();
        Ok(Self {
            shape: s,
            norm: w.norm,
            qkv: WeightMatrix::stack(gpu, "q, k and v", vec![w.q_proj, w.k_proj, w.v_proj])?,
            qkv_bias,
            norms: (normed.0 || normed.1).then(|| Tensor::new(gpu, "norms of heads", &weights)).transpose()?,
            normed,
            o_proj: w.o_proj,
            o_bias: w.o_proj_bias,
        })
    }

    fn o_bias(&self) -> Option<&Tensor> {
        self.o_bias.as_ref().map(WeightMatrix::tensor)
    }

    /// From the workspace's qkv to its y, keys and values into pages.
    fn attend(
        &self,
        plan: &mut PlanBuilder<'_>,
        w: &Workspace,
        (stream, state): (&Stream<'_>, &LayerState),
        (l, of): (usize, TokensOf),
    ) -> Result<(), GpuError> {
        let s = &self.shape;
        let Some(kept) = &state.kept else {
            return Err(GpuError::Validation { message: "a layer of attention without pages".into() });
        };
        let pages = Pages {
            keys: &kept.keys,
            values: &kept.values,
            table: &kept.table,
            table_stride: ROTATIONS / PAGE,
            texts: stream.texts,
        };
        let (of_queries, of_keys) = self.normed;
        let norms = self.norms.as_ref().map(|weights| HeadNorms { weights, of_queries, of_keys, eps: s.norm_eps });
        let rotary_dim = s.rope.map_or(0, |rope| rope.dims);
        let buffers = RopeBuffers { qkv: &w.qkv, q: &w.q, norms, rotations: &w.rotations, rotary_dim };
        let shape = s.attention();
        kernels::rope_store(plan, &buffers, &pages, (l, of), s.value_scale(), &shape)?;
        match of {
            TokensOf::EachText => kernels::attention_step(plan, (&w.q, &w.y), &pages, l, &shape),
            TokensOf::OneText => kernels::attention(plan, (&w.q, &w.y), &pages, l, &shape),
        }
    }

    /// A chunk of one text's l tokens, or a step of l texts, from the stream's `residual` and `hidden` to `hidden`.
    pub fn forward(
        &self,
        plan: &mut PlanBuilder<'_>,
        w: &Workspace,
        stream: &Stream<'_>,
        state: &LayerState,
        chunk: Chunk<'_>,
    ) -> Result<(), GpuError> {
        let (s, l) = (&self.shape, chunk.l);
        // Without a norm of its own what the block before it has read is there still.
        if let Some(norm) = &self.norm {
            stream.norm(plan, norm, chunk)?;
        }
        dense(plan, stream.normed, &self.qkv, self.qkv_bias.as_ref(), (&w.qkv, s.d_qkv()), l)?;
        let of = match chunk.way {
            Way::Step(_) => TokensOf::EachText,
            Way::Texts(_) => TokensOf::OneText,
        };
        self.attend(plan, w, (stream, state), (l, of))?;
        let out = w.beside.as_ref().unwrap_or(stream.hidden);
        dense(plan, &w.y, from_ref(&self.o_proj), self.o_bias(), (out, s.d_model), l)?;
        match &w.beside {
            Some(beside) => kernels::scale_add(plan, stream.hidden, (None, Some(beside)), (l, s.d_model)),
            None => Ok(()),
        }
    }

    /// Whether the fused step can run, which reads rows in whole quads.
    pub fn fuses_the_step(&self) -> bool {
        self.shape.d_model.is_multiple_of(4)
    }

    /// The fused step's first part: queries, keys and values of one token, through its own norm or that of the block beside it, which
    /// has not added to the residual stream yet.
    pub fn fused_read(
        &self,
        plan: &mut PlanBuilder<'_>,
        w: &Workspace,
        stream: &Stream<'_>,
        beside: Option<&WeightMatrix>,
    ) -> Result<(), GpuError> {
        let Some(norm) = self.norm.as_ref().or(beside) else {
            return Err(GpuError::Validation { message: "a layer of attention without a norm".into() });
        };
        let norm = (norm.tensor(), stream.norm_eps);
        let mut each = self.qkv.iter();
        each.try_for_each(|qkv| kernels::matvec_norm(plan, stream.residual, norm, qkv, self.qkv_bias.as_ref(), &w.qkv))
    }

    /// The rest of it, the residual stream added to in place.
    pub fn fused_step(
        &self,
        plan: &mut PlanBuilder<'_>,
        w: &Workspace,
        stream: &Stream<'_>,
        state: &LayerState,
    ) -> Result<(), GpuError> {
        if self.norm.is_some() {
            self.fused_read(plan, w, stream, None)?;
        }
        self.attend(plan, w, (stream, state), (1, TokensOf::EachText))?;
        kernels::matvec_add(plan, &w.y, &self.o_proj, self.o_bias(), stream.residual)
    }
}
