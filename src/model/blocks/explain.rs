//! What a layer of any kind sees, by the kernels.

use crate::error::Result;
use crate::gpu::{Gpu, GpuError, PlanBuilder, Tensor, Variant};
use crate::kernels::{self, ExplainBuffers, ExplainShape};
use crate::model::explanation::{ExplainOptions, LayerExplanation, LayerTensors};
use crate::reference::ExplainInput;

/// A layer's activations over L tokens, still there from its forward pass.
pub(crate) struct Seen<'a> {
    pub shape: ExplainShape,
    /// (L, u_stride)
    pub u: &'a Tensor,
    /// (L, units)
    pub delta: Tensor,
    pub a: &'a Tensor,
    /// (L, bc_stride)
    pub bc: &'a Tensor,
    /// What gates y, where that is gated: rows, their stride and the column where z begins.
    pub gate: Option<(&'a Tensor, usize, usize)>,
    pub d: &'a Tensor,
    /// (L, units, width)
    pub y: &'a Tensor,
}

/// What the kernels write, for layers of up to so many units and channels.
pub(crate) struct Room {
    forget: Tensor,    // (L, units)
    energy: Tensor,    // (L, units, width)
    stats: Tensor,     // (L, 3)
    attention: Tensor, // (L, L, 2), zero above the diagonal
}

impl Room {
    fn new(gpu: &Gpu, s: &ExplainShape) -> Result<Self, GpuError> {
        let room = Self {
            forget: Tensor::zeros(gpu, "forget", s.l * s.units)?,
            energy: Tensor::zeros(gpu, "energy", s.l * s.channels())?,
            stats: Tensor::zeros(gpu, "token stats", s.l * 3)?,
            attention: Tensor::zeros(gpu, "hidden attention", 2 * s.l * s.l)?,
        };
        gpu.check()?;
        Ok(room)
    }

    /// The one that there is, or another where that is none or too small.
    fn of<'a>(room: &'a mut Option<Self>, gpu: &Gpu, s: &ExplainShape) -> Result<&'a Self, GpuError> {
        let fits =
            |room: &Self| room.forget.elements() >= s.l * s.units && room.energy.elements() >= s.l * s.channels();
        Ok(match room.take_if(|room| fits(room)) {
            Some(there) => room.insert(there),
            None => room.insert(Self::new(gpu, s)?),
        })
    }
}

/// The i-th layer, from its activations. `room` is made when first needed.
pub(crate) async fn explain(
    gpu: &Gpu,
    seen: &Seen<'_>,
    room: &mut Option<Room>,
    i: usize,
    options: &ExplainOptions,
) -> Result<LayerExplanation> {
    let &Seen { u, a, bc, d, y, ref delta, ref shape, .. } = seen;
    let by_kernels = gpu.allows(Variant::Explain);
    let read = async |tensor: &Tensor| tensor.read::<f32>(gpu).await;
    // Only one unit's inputs and output, and the twins, need them on the host.
    let on_host = if by_kernels && options.channels.is_empty() {
        None
    } else {
        let gate = match seen.gate {
            Some((z, stride, offset)) => Some((read(z).await?, stride, offset)),
            None => None,
        };
        let activations = [read(u).await?, read(delta).await?, read(bc).await?];
        Some((activations, read(a).await?, gate, read(d).await?, read(y).await?))
    };
    let tensors = on_host.as_ref().map(|([u, delta, bc], a, gate, d, y)| LayerTensors {
        input: ExplainInput { u, delta, a, bc },
        gate: gate.as_ref().map(|(z, stride, offset)| (&z[..], *stride, *offset)),
        d,
        y,
    });
    if let (Some(tensors), false) = (&tensors, by_kernels) {
        return Ok(LayerExplanation::by_twins(i, tensors, options, shape));
    }

    let Room { forget, energy, stats, attention } = Room::of(room, gpu, shape)?;
    let b = ExplainBuffers { u, delta, a, bc };
    let mut plan = PlanBuilder::new(gpu);
    kernels::channel_stats(&mut plan, &b, forget, energy, shape)?;
    kernels::token_stats(&mut plan, (delta, forget, energy), stats, shape)?;
    kernels::hidden_attention(&mut plan, &b, attention, 0..shape.units, shape)?;
    plan.finish()?.run(gpu).await?;
    let mut explained = LayerExplanation::new(i, &read(stats).await?, &read(attention).await?, shape);
    if let Some(tensors) = tensors {
        let (forget, energy) = (read(forget).await?, read(energy).await?);
        for &unit in &options.channels {
            let mut plan = PlanBuilder::new(gpu);
            kernels::hidden_attention(&mut plan, &b, attention, unit..unit + 1, shape)?;
            plan.finish()?.run(gpu).await?;
            explained.push(unit, &read(attention).await?, &tensors, (&forget, &energy), shape);
        }
    }
    Ok(explained)
}
