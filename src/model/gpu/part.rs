//! Texts on their way through a part of a model's layers, of which this device has some.

use super::session::{GpuSession, Head};
use super::GpuBatch;
use crate::gpu::{Readback, Tensor};
use crate::model::span::{Input, Wanted};
use crate::Result;

impl GpuSession {
    /// Makes room for a chunk of l tokens: what would refuse it refuses it here, before any other part has read it.
    pub fn room_for(&mut self, l: usize) -> Result<()> {
        self.go_back();
        self.reserve(l)
    }

    /// A chunk through the layers that are here, by the parallel kernels. What they leave in the residual stream, (l, d_model), where
    /// another part goes on.
    pub async fn pass_chunk(&mut self, input: Input<'_>, wanted: Wanted<'_>) -> Result<Vec<f32>> {
        self.go_back();
        let l = input.len();
        self.make_room(l)?;
        match wanted {
            Wanted::Nothing => self.read_chunk(input, l, Head::None).await?,
            Wanted::Last => {
                self.read_chunk(input, l, Head::Last).await?;
                self.has_logits = true;
            }
            Wanted::Scores { targets, into } => {
                self.score_chunk(input, 1, targets, into).await?;
                self.has_logits = true;
            }
        }
        match (&self.model.end, &self.prefill) {
            (None, Some(w)) => {
                Ok(w.residual.slice(0, l * self.model.config.d_model).read::<f32>(&self.model.gpu).await?)
            }
            _ => Ok(Vec::new()),
        }
    }

    /// The same of one token by the recurrent kernels.
    pub async fn pass_step(&mut self, input: Input<'_>) -> Result<Vec<f32>> {
        self.go_back();
        let (gpu, d_model) = (self.model.gpu.clone(), self.model.config.d_model);
        let mut encoder = self.record_step(input)?;
        self.has_logits = true;
        let Some(residual) = self.step_residual().filter(|_| self.model.end.is_none()).cloned() else {
            gpu.submit([encoder.finish()]);
            gpu.check()?;
            return Ok(Vec::new());
        };
        let back = self.residual_back.get_or_insert_with(|| Readback::new(&gpu, "residual", d_model));
        back.copy_from(&mut encoder, &residual);
        gpu.submit([encoder.finish()]);
        Ok(back.read(&gpu, d_model).await?)
    }
}

impl GpuBatch {
    /// Makes room for a token of each of some texts: what would refuse it refuses it here.
    pub fn room_for(&mut self, slots: &[usize]) -> Result<()> {
        self.reserve(slots)
    }

    /// A token for each of some texts, from logits that are there; `None` where they left nothing to draw.
    pub async fn draw(&mut self, slots: &[usize]) -> Result<Vec<Option<u32>>> {
        if slots.is_empty() {
            return Ok(Vec::new());
        }
        self.write_texts(slots.iter().copied());
        let submission = self.submit_draws(slots)?;
        self.drawn(slots.len(), Some(submission)).await
    }

    /// A row of each of some texts, for which there is room, through the layers that are here. What they leave in the residual stream,
    /// (rows, d_model), where another part goes on.
    pub async fn pass(&mut self, slots: &[usize], input: Input<'_>) -> Result<Vec<f32>> {
        let (gpu, rows) = (self.model.gpu.clone(), slots.len() * self.model.config.d_model);
        self.write_texts(slots.iter().copied());
        self.work.write(&gpu, input);
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        self.record_step(&mut encoder, slots)?;
        if self.model.end.is_some() {
            gpu.submit([encoder.finish()]);
            gpu.check()?;
            return Ok(Vec::new());
        }
        let residual: &Tensor = &self.work.residual;
        let room = residual.elements();
        let back = self.residual_back.get_or_insert_with(|| Readback::new(&gpu, "residual", room));
        back.copy_from(&mut encoder, &residual.slice(0, rows));
        gpu.submit([encoder.finish()]);
        Ok(back.read(&gpu, rows).await?)
    }
}
