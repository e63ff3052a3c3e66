//! Shapes of published hybrids and of a Transformer, to measure with.

use super::Spec;
use crate::checkpoint::Arch;
use crate::model::blocks::attention::{self, Rope, RopeScaling};
use crate::model::blocks::moe::{self, Stored};
use crate::model::blocks::{mamba2, mlp, Shape};
use crate::reference::{Activation, GatedNorm, Gating, Router};

/// `heads` of queries, of keys and values, and channels of each.
fn attention(
    d_model: usize,
    (heads, kv_heads, head_dim): (usize, usize, usize),
    theta: Option<f64>,
) -> attention::Shape {
    attention::Shape {
        d_model,
        heads,
        kv_heads,
        head_dim,
        scale: 1.0 / (head_dim as f32).sqrt(),
        window: 0,
        rope: theta.map(|theta| Rope { theta, dims: head_dim, scaling: RopeScaling::None }),
        norm_eps: 1e-5,
        out_scale: 1.0,
        in_scale: 1.0,
        beside: false,
    }
}

fn swiglu(d_model: usize, d_ff: usize, fused: bool) -> Shape {
    let (activation, gated) = (Activation::Silu, true);
    Shape::Mlp(mlp::Shape { d_model, d_ff, activation, gated, fused, gate_scale: 1.0, out_scale: 1.0 })
}

fn spec(arch: Arch, layers: Vec<Shape>, d_model: usize, vocab_size: usize, tied: bool) -> Spec {
    let layer = layers[0];
    Spec { arch, layer, tied, n_layer: layers.len(), layers, ..Spec::new(0, d_model, vocab_size) }
}

/// Granite 4.0-H without experts: attention at `attending`, `ssm` heads of so many channels, heads of attention and width of MLPs.
pub(super) fn granite(
    n_layer: usize,
    d_model: usize,
    attending: &[usize],
    (n_heads, head_dim): (usize, usize),
    (attention_dim, d_ff): (usize, usize),
) -> Spec {
    let mamba = Shape::Mamba2(mamba2::Shape { n_heads, head_dim, ..mamba2::Shape::of(d_model) });
    let attends = Shape::Attention(attention(d_model, (12, 4, attention_dim), None));
    let mixer = |i: usize| if attending.contains(&i) { attends } else { mamba };
    let layers = (0..n_layer).flat_map(|i| [mixer(i), swiglu(d_model, d_ff, true)]).collect();
    spec(Arch::Granite, layers, d_model, 100_352, true)
}

/// Granite 4.0-H Tiny, each of whose tokens is given to 6 of 64 experts.
pub(super) fn granite_tiny() -> Spec {
    let dense = granite(40, 1536, &[5, 15, 25, 35], (48, 64), (128, 1024));
    let experts = |shape: Shape| match shape {
        Shape::Mlp(shared) => Shape::Moe(moe::Shape {
            d_model: shared.d_model,
            router: Router { experts: 64, chosen: 6, gating: Gating::Chosen, scale: 1.0 },
            d_ff: 512,
            d_shared: shared.d_ff,
            d_latent: None,
            activation: shared.activation,
            gated: true,
            stored: Stored::Together,
            out_scale: 1.0,
        }),
        other => other,
    };
    Spec { layers: dense.layers.into_iter().map(experts).collect(), ..dense }
}

/// Falcon-H1 0.5B, whose mixer has no norm.
pub(super) fn falcon_h1() -> Spec {
    let d_model = 1024;
    let mamba = mamba2::Shape { n_heads: 24, head_dim: 64, norm: GatedNorm::GateOnly, ..mamba2::Shape::of(d_model) };
    let attends = attention::Shape { beside: true, ..attention(d_model, (8, 2, 64), Some(1e11)) };
    let layer = [Shape::Mamba2(mamba), Shape::Attention(attends), swiglu(d_model, 2048, false)];
    spec(Arch::FalconH1, layer.repeat(36), d_model, 32_784, false)
}

/// Llama 3.2 1B.
pub(super) fn llama() -> Spec {
    let d_model = 2048;
    let layer = [Shape::Attention(attention(d_model, (32, 8, 64), Some(5e5))), swiglu(d_model, 8192, false)];
    spec(Arch::Llama, layer.repeat(16), d_model, 128_256, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_parameters_as_published() {
        // In millions. Of Granite's and Llama's the cards say it; Falcon-H1's is what its shapes give.
        for (name, millions) in [
            ("granite-4.0-h-350m", 340),
            ("granite-4.0-h-1b", 1460),
            ("granite-4.0-h-tiny", 6940),
            ("llama-1b", 1236),
            ("falcon-h1-0.5b", 521),
        ] {
            let outline = Spec::preset(name).unwrap().outline();
            let parameters = outline.weights().unwrap().parameters();
            assert!(parameters.abs_diff(millions * 1_000_000) < 12_000_000, "{name}: {parameters}");
        }
    }
}
