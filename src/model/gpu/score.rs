//! What the model says of given texts.

use super::buffers::{Memory, ScoreBuffers, SCORE_ROWS};
use super::session::{GpuSession, Head};
use crate::error::{InputError, Result};
use crate::gpu::Tensor;
use crate::kernels::SampleBuffers;
use crate::model::span::Input;
use crate::model::types::{check_targets, Scores};

impl GpuSession {
    fn room_for_scores(&mut self) -> Result<()> {
        let (gpu, vocab_size) = (&self.model.gpu, self.model.config.vocab_size);
        let capacity = self.prefill.as_ref().map_or(0, |w| w.capacity);
        if self.score.is_none() {
            self.score = Some(ScoreBuffers {
                logits: Tensor::zeros(gpu, "logits", SCORE_ROWS.min(capacity) * vocab_size)?,
                argmax: Tensor::zeros(gpu, "argmax", capacity)?,
                targets: Tensor::zeros(gpu, "targets", capacity)?,
                nll: Tensor::zeros(gpu, "nll", capacity)?,
            });
        }
        Ok(())
    }

    /// As [`GpuSession::prefill`], with every position's most likely successor and, with targets, -log p of each.
    pub async fn score(
        &mut self,
        tokens: &[u32],
        targets: Option<&[u32]>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Scores> {
        check_targets(tokens, targets, self.config().vocab_size)?;
        self.go_back();
        let chunk = self.model.chunk();
        self.make_room(chunk.min(tokens.len()))?;
        let mut scores = Scores { argmax: Vec::with_capacity(tokens.len()), nll: Vec::new() };
        for (i, part) in tokens.chunks(chunk).enumerate() {
            let at = i * chunk;
            let targets = targets.map(|targets| &targets[at..at + part.len()]);
            self.score_chunk(Input::Tokens(part), 1, targets, &mut scores).await?;
            progress(at + part.len(), tokens.len());
        }
        self.has_logits = true;
        Ok(scores)
    }

    /// The same of windows of so many tokens, each a text by itself, as many together as a chunk has room for. The session is at the begin
    /// of a text afterwards.
    pub async fn score_windows(
        &mut self,
        tokens: &[u32],
        targets: Option<&[u32]>,
        window: usize,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Scores> {
        check_targets(tokens, targets, self.config().vocab_size)?;
        self.reset();
        let texts = self.model.texts_together(window).min(tokens.len() / window.max(1));
        let mut scores = Scores { argmax: Vec::with_capacity(tokens.len()), nll: Vec::new() };
        let mut at = 0;
        if texts > 1 {
            self.make_room(texts * window)?;
            if self.together.as_ref().is_none_or(|(of, _)| *of != texts) {
                self.plans.clear();
                self.together = Some((texts, Memory::new(&self.model.gpu, &self.model.config.layers, texts)?));
            }
            for part in tokens.chunks_exact(texts * window) {
                let targets = targets.map(|targets| &targets[at..at + part.len()]);
                self.score_chunk(Input::Tokens(part), texts, targets, &mut scores).await?;
                at += part.len();
                progress(at, tokens.len());
            }
        }
        for part in tokens[at..].chunks(window.max(1)) {
            let targets = targets.map(|targets| &targets[at..at + part.len()]);
            self.reset();
            let of_window = self.score(part, targets, &mut |done, _| progress(at + done, tokens.len())).await?;
            scores.argmax.extend(of_window.argmax);
            scores.nll.extend(of_window.nll);
            at += part.len();
        }
        self.reset();
        Ok(scores)
    }

    /// A chunk of so many texts, for which there is room.
    pub(super) async fn score_chunk(
        &mut self,
        part: Input<'_>,
        texts: usize,
        targets: Option<&[u32]>,
        scores: &mut Scores,
    ) -> Result<()> {
        let gpu = self.model.gpu.clone();
        let (argmax, nll) = loop {
            self.room_for_scores()?;
            let held = self.chunk(part, texts, targets, Head::Score { nll: targets.is_some() }).await?;
            let Some(s) = &self.score else { return Ok(()) };
            let argmax = s.argmax.slice(0, part.len()).read::<u32>(&gpu).await?;
            let nll = match targets {
                Some(_) => s.nll.slice(0, part.len()).read::<f32>(&gpu).await?,
                None => Vec::new(),
            };
            // The head's own products are not watched: what is beyond them shows here.
            let finite = nll.iter().all(|x| x.is_finite()) && !argmax.contains(&SampleBuffers::NOT_A_NUMBER);
            let watched = self.prefill.as_ref().is_some_and(|w| w.beyond.is_some());
            if watched && !(held && finite) {
                self.leave_f16(part.len())?;
            } else {
                break (argmax, nll);
            }
        };
        if argmax.contains(&SampleBuffers::NOT_A_NUMBER) {
            return Err(InputError::NoTokenToChoose.into());
        }
        scores.argmax.extend(argmax);
        scores.nll.extend(nll);
        Ok(())
    }
}
