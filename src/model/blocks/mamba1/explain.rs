//! What a Mamba layer sees, by the kernels.

use super::gpu::{Layer, Workspace};
use crate::error::Result;
use crate::gpu::{Gpu, PlanBuilder, Tensor, Variant};
use crate::kernels::{self, ExplainBuffers};
use crate::model::explanation::{ExplainOptions, LayerExplanation, LayerTensors};
use crate::reference::ExplainInput;

/// What the kernels write.
pub(crate) struct Room {
    forget: Tensor,    // (L, d_inner)
    energy: Tensor,    // (L, d_inner)
    stats: Tensor,     // (L, 3)
    attention: Tensor, // (L, L, 2), zero above the diagonal
}

impl Room {
    fn new(gpu: &Gpu, l: usize, d_inner: usize) -> Result<Self> {
        let room = Self {
            forget: Tensor::zeros(gpu, "forget", l * d_inner)?,
            energy: Tensor::zeros(gpu, "energy", l * d_inner)?,
            stats: Tensor::zeros(gpu, "token stats", l * 3)?,
            attention: Tensor::zeros(gpu, "hidden attention", 2 * l * l)?,
        };
        gpu.check()?;
        Ok(room)
    }
}

impl Layer {
    /// Of the layer's activations over l tokens, still in the workspace. `room` is made when first needed.
    pub async fn explain(
        &self,
        gpu: &Gpu,
        w: &Workspace,
        room: &mut Option<Room>,
        (i, l): (usize, usize),
        options: &ExplainOptions,
    ) -> Result<LayerExplanation> {
        let shape = self.shape.scan(l);
        let by_kernels = gpu.allows(Variant::Explain);
        let read = async |tensor: &Tensor| tensor.read::<f32>(gpu).await;
        // Only one channel's inputs and output, and the twins, need them on the host.
        let on_host = if by_kernels && options.channels.is_empty() {
            None
        } else {
            let activations = [read(&w.u).await?, read(&w.delta).await?, read(&w.x_dbl).await?];
            let (a, d) = (read(self.a()).await?, read(self.w.d.tensor()).await?);
            Some((activations, a, read(&w.xz).await?, d, read(&w.y).await?))
        };
        let tensors = on_host.as_ref().map(|([u, delta, x_dbl], a, xz, d, y)| LayerTensors {
            input: ExplainInput { u, delta, a, x_dbl },
            xz,
            d,
            y,
        });
        if let (Some(tensors), false) = (&tensors, by_kernels) {
            return Ok(LayerExplanation::by_twins(i, tensors, options, &shape));
        }

        if room.is_none() {
            *room = Some(Room::new(gpu, l, shape.d_inner)?);
        }
        let Some(Room { forget, energy, stats, attention }) = room else {
            return Ok(LayerExplanation::new(i, &[], &[]));
        };
        let b = ExplainBuffers { u: &w.u, delta: &w.delta, a: self.a(), x_dbl: &w.x_dbl };
        let mut plan = PlanBuilder::new(gpu);
        kernels::channel_stats(&mut plan, &b, forget, energy, shape)?;
        kernels::token_stats(&mut plan, (&w.delta, forget, energy), stats, (shape.l, shape.d_inner))?;
        kernels::hidden_attention(&mut plan, &b, attention, 0..shape.d_inner, shape)?;
        plan.finish()?.run(gpu).await?;
        let mut explained = LayerExplanation::new(i, &read(stats).await?, &read(attention).await?);
        if let Some(tensors) = tensors {
            let (forget, energy) = (read(forget).await?, read(energy).await?);
            for &channel in &options.channels {
                let mut plan = PlanBuilder::new(gpu);
                kernels::hidden_attention(&mut plan, &b, attention, channel..channel + 1, shape)?;
                plan.finish()?.run(gpu).await?;
                explained.push(channel, &read(attention).await?, &tensors, (&forget, &energy), &shape);
            }
        }
        Ok(explained)
    }
}
