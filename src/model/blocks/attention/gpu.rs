//! A layer of attention by the kernels.

use super::{Shape, Weights};
use crate::gpu::{Gpu, GpuError, PlanBuilder, Tensor};
use crate::kernels::{self, Pages, RmsNorm, RopeBuffers, TokensOf, WeightMatrix};
use crate::model::blocks::device::{Chunk, LayerState, Numbers, Stream, Way};
use crate::reference::{PAGE, ROTATIONS};

/// A layer's weights on a device.
pub(crate) struct Layer {
    pub shape: Shape,
    pub w: Weights<WeightMatrix>,
}

/// The activations of a chunk of up to L tokens, and what rotates them; all layers share them.
pub(crate) struct Workspace {
    q: Tensor, // (L, heads, head_dim), L up to whole COOP_TILEs where cooperative matrices write it
    k: Tensor, // (L, kv_heads, head_dim), likewise
    v: Tensor, // (L, kv_heads, head_dim), likewise
    /// q and k through norms of their own, in models that have them.
    normed: Option<(Tensor, Tensor)>,
    y: Tensor, // (L, heads, head_dim)
    rotations: Tensor,
    /// (L, d_model), tall as q: what is added to the output of the block beside it.
    beside: Option<Tensor>,
}

impl Workspace {
    /// For layers like `layer`, which are rotated alike.
    pub fn new(gpu: &Gpu, layer: &Layer, l: usize, numbers: &mut Numbers) -> Result<Self, GpuError> {
        numbers.end(gpu)?;
        let (s, tall) = (&layer.shape, numbers.tall(gpu, l));
        let rows = |label: &str, width: usize| Tensor::zeros(gpu, label, tall * width);
        let normed = match layer.w.q_norm.is_some() || layer.w.k_norm.is_some() {
            true => Some((rows("normed queries", s.d_q())?, rows("normed keys", s.d_kv())?)),
            false => None,
        };
        let rotations = match &s.rope {
            Some(rope) => kernels::rotations(&rope.frequencies(), rope.factor()),
            None => vec![0.0; 2],
        };
        Ok(Self {
            q: rows("queries", s.d_q())?,
            k: rows("keys of a chunk", s.d_kv())?,
            v: rows("values of a chunk", s.d_kv())?,
            normed,
            y: numbers.factor(Tensor::zeros(gpu, "attended", l * s.d_q())?),
            rotations: Tensor::new(gpu, "rotations", &rotations)?,
            beside: s.beside.then(|| rows("attention beside", s.d_model)).transpose()?,
        })
    }
}

impl Layer {
    /// A chunk of one text's l tokens, or a step of l texts, from the stream's `residual` and `hidden` to `hidden`.
    pub fn forward(
        &self,
        plan: &mut PlanBuilder<'_>,
        w: &Workspace,
        stream: &Stream<'_>,
        state: &LayerState,
        chunk: Chunk<'_>,
    ) -> Result<(), GpuError> {
        let (s, p, l) = (&self.shape, &self.w, chunk.l);
        let Some(kept) = &state.kept else {
            return Err(GpuError::Validation { message: "a layer of attention without pages".into() });
        };
        // Without a norm of its own what the block before it has read is there still.
        if let Some(norm) = &p.norm {
            stream.norm(plan, norm, chunk)?;
        }
        let linear = |x_stride, y_stride| kernels::Linear { l, x_stride, y_stride, softplus: false };
        for (matrix, bias, out, width) in [
            (&p.q_proj, &p.q_proj_bias, &w.q, s.d_q()),
            (&p.k_proj, &p.k_proj_bias, &w.k, s.d_kv()),
            (&p.v_proj, &p.v_proj_bias, &w.v, s.d_kv()),
        ] {
            let bias = bias.as_ref().map(WeightMatrix::tensor);
            kernels::linear(plan, stream.normed, matrix, bias, out, linear(s.d_model, width))?;
        }
        let (mut q, mut k) = (&w.q, &w.k);
        if let Some((normed_q, normed_k)) = &w.normed {
            for (x, out, weight, heads) in
                [(&mut q, normed_q, &p.q_norm, s.heads), (&mut k, normed_k, &p.k_norm, s.kv_heads)]
            {
                if let Some(weight) = weight {
                    let norm = RmsNorm { rows: l * heads, row0: 0, d: s.head_dim, eps: s.norm_eps };
                    kernels::rms_norm(plan, x, None, weight.tensor(), out, norm)?;
                    *x = out;
                }
            }
        }
        let pages = Pages {
            keys: &kept.keys,
            values: &kept.values,
            table: &kept.table,
            table_stride: ROTATIONS / PAGE,
            texts: stream.texts,
        };
        let rotary_dim = s.rope.map_or(0, |rope| rope.dims);
        let buffers = RopeBuffers { q, k, v: &w.v, rotations: &w.rotations, rotary_dim };
        let shape = s.attention();
        match chunk.way {
            Way::Step(_) => {
                kernels::rope_store(plan, &buffers, &pages, (l, TokensOf::EachText), s.value_scale(), &shape)?;
                kernels::attention_step(plan, (q, &w.y), &pages, l, &shape)?;
            }
            Way::Texts(_) => {
                kernels::rope_store(plan, &buffers, &pages, (l, TokensOf::OneText), s.value_scale(), &shape)?;
                kernels::attention(plan, (q, &w.y), &pages, l, &shape)?;
            }
        }
        let bias = p.o_proj_bias.as_ref().map(WeightMatrix::tensor);
        let out = w.beside.as_ref().unwrap_or(stream.hidden);
        kernels::linear(plan, &w.y, &p.o_proj, bias, out, linear(s.d_q(), s.d_model))?;
        match &w.beside {
            Some(beside) => kernels::scale_add(plan, stream.hidden, (None, Some(beside)), (l, s.d_model)),
            None => Ok(()),
        }
    }
}
