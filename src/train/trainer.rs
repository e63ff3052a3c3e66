//! The loop's inside: batches in, steps on the device, their losses back now and then.

use super::named::NamedTensor;
use super::parameters::{initial, Parameters, Side};
use super::random::Purpose;
use super::tape::Loss;
use super::tasks::{Batch, Data};
use super::{Pretrained, Settings, Tape, TrainError};
use crate::error::Result;
use crate::gpu::Variant;
use crate::gpu::{Gpu, GpuError, Plan, PlanBuilder, Readback, Tensor};
use crate::kernels::{Step, StepTensors};
use std::collections::VecDeque;

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepRecord {
    /// Counted from 1.
    pub step: u64,
    /// Nats a target, over the step's batch, before the step; with smoothed labels, what those come to.
    pub loss: f32,
    /// Of the whole gradient, before clipping.
    pub gradient_norm: f32,
    pub learning_rate: f64,
}

/// All of a run that its next steps depend on, on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainerState {
    /// Steps done.
    pub step: u64,
    pub parameters: Vec<NamedTensor>,
    pub m: Vec<NamedTensor>,
    pub v: Vec<NamedTensor>,
}

/// Steps whose records the device holds.
const SLOTS: usize = 64;

/// A run on a device.
pub struct Trainer {
    gpu: Gpu,
    settings: Settings,
    parameters: Parameters,
    tape: Tape,
    step_values: Tensor, // kernels::Step
    loss_sum: Tensor,    // (1)
    clip: Tensor,        // (2)
    record: Tensor,      // (SLOTS, 2)
    record_back: Readback,
    optimise: Plan,
    /// Steps submitted.
    step: u64,
    /// Batches of the steps whose records have not been read: a bad one is gone through again, to find out why.
    unread: VecDeque<Vec<Batch>>,
}

impl Trainer {
    /// A run from its begin, with Mamba's initialisation.
    ///
    /// # Errors
    /// Settings that make no sense; buffers over the adapter's limits; a full memory.
    pub fn new(gpu: &Gpu, settings: &Settings, data: &dyn Data) -> Result<Self> {
        settings.check()?;
        Self::with_parameters(gpu, settings, data.length(), &initial(settings)?)
    }

    /// A run from a model's parameters; the settings are [`Pretrained::adopt`]'s.
    ///
    /// # Errors
    /// As [`Trainer::new`]; settings for another model.
    pub fn from_pretrained(gpu: &Gpu, settings: &Settings, data: &dyn Data, model: &Pretrained) -> Result<Self> {
        settings.check()?;
        Self::with_parameters(gpu, settings, data.length(), model.tensors_for(settings)?)
    }

    /// A run that goes on where another was.
    ///
    /// # Errors
    /// As [`Trainer::new`]; tensors that are missing or of another shape.
    pub fn resume(gpu: &Gpu, settings: &Settings, data: &dyn Data, state: &TrainerState) -> Result<Self> {
        settings.check()?;
        let mut trainer = Self::with_parameters(gpu, settings, data.length(), &state.parameters)?;
        trainer.parameters.write(gpu, Side::M, &state.m)?;
        trainer.parameters.write(gpu, Side::V, &state.v)?;
        trainer.step = state.step;
        Ok(trainer)
    }

    /// A run from parameters under Hugging Face's names, on sequences of `length` tokens.
    ///
    /// # Errors
    /// As [`Trainer::resume`].
    pub fn with_parameters(gpu: &Gpu, settings: &Settings, length: usize, tensors: &[NamedTensor]) -> Result<Self> {
        if !gpu.allows(Variant::Training) {
            return Err(TrainError::Unfit.into());
        }
        let parameters = Parameters::new(gpu, &settings.shape, settings.task.vocab_size(), tensors)?;
        let zeros = |label: &str, elements| Tensor::zeros(gpu, label, elements);
        let (step_values, loss_sum) = (zeros("step", Step::ELEMENTS)?, zeros("loss", 1)?);
        let (clip, record) = (zeros("clip", 2)?, zeros("record", 2 * SLOTS)?);
        let partials = zeros("partials", parameters.partial_sums())?;
        let loss = Loss { scale: &step_values, sum: &loss_sum, label_smoothing: settings.label_smoothing };
        let tape = Tape::training(gpu, &parameters, (settings.micro_batch(), length), loss)?;
        let mut plan = PlanBuilder::new(gpu);
        let shared =
            StepTensors { step: &step_values, clip: &clip, loss_sum: &loss_sum, record: &record, partials: &partials };
        parameters.optimise(&mut plan, &shared, &settings.optimiser.kernel())?;
        let optimise = plan.finish()?;
        Ok(Self {
            gpu: gpu.clone(),
            settings: settings.clone(),
            parameters,
            tape,
            step_values,
            loss_sum,
            clip,
            record,
            record_back: Readback::new(gpu, "record", 2 * SLOTS),
            optimise,
            step: 0,
            unread: VecDeque::new(),
        })
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }
    /// Steps submitted.
    pub fn step(&self) -> u64 {
        self.step
    }
    /// Steps that can be submitted before [`Trainer::records`] has to be called.
    pub fn room(&self) -> usize {
        SLOTS - self.unread.len()
    }
    /// Dispatches of a step.
    pub fn dispatches(&self) -> usize {
        self.tape.dispatches() * self.settings.accumulate + self.optimise.labels().len()
    }

    /// The batches of a step (counted from 1), which depend on nothing but the settings and the step.
    pub fn batches(settings: &Settings, data: &dyn Data, step: u64) -> Vec<Batch> {
        let first = (step - 1) * settings.batch as u64;
        let micro = settings.micro_batch();
        (0..settings.accumulate)
            .map(|i| data.batch(settings.seed, Purpose::Training, first + (i * micro) as u64, micro))
            .collect()
    }

    /// Submits the next step, of a micro-batch or several. Returns before it is done; [`Trainer::records`] says what came of it.
    ///
    /// # Errors
    /// Batches of other shapes; more than [`Trainer::room`] steps without a look; the device's.
    pub fn submit(&mut self, batches: Vec<Batch>) -> Result<()> {
        let bad = |what, got, expected| Err(TrainError::BatchShape { what, got, expected }.into());
        if batches.len() != self.settings.accumulate {
            return bad("micro-batches of a step", batches.len(), self.settings.accumulate);
        }
        if self.room() == 0 {
            return bad("steps without reading their records", SLOTS + 1, SLOTS);
        }
        self.run(self.step + 1, &batches, true)?;
        self.step += 1;
        self.unread.push_back(batches);
        Ok(self.gpu.check()?)
    }

    /// Goes through the next step's batches, there and back, and leaves it at that: the gradients will be there, the
    /// parameters as they were. Returns before it is done, as [`Trainer::submit`] does.
    ///
    /// # Errors
    /// Batches of other shapes; the device's.
    pub fn differentiate(&self, batches: &[Batch]) -> Result<()> {
        self.run(self.step + 1, batches, false)?;
        Ok(self.gpu.check()?)
    }

    fn run(&self, step: u64, batches: &[Batch], optimise: bool) -> Result<()> {
        let (o, t) = (&self.settings.optimiser, step.min(i32::MAX as u64) as i32);
        let counted: usize = batches.iter().map(Batch::counted).sum();
        let values = Step {
            loss_scale: 1.0 / counted.max(1) as f32,
            learning_rate: self.settings.schedule.rate(step) as f32,
            correction1: (1.0 - f64::from(o.beta1).powi(t)) as f32,
            correction2: (1.0 - f64::from(o.beta2).powi(t)).sqrt() as f32,
            slot: (step % SLOTS as u64) as u32,
        };
        self.step_values.write(&self.gpu, 0, &[values]);
        for (i, batch) in batches.iter().enumerate() {
            self.tape.write(batch)?;
            let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
            if i == 0 {
                self.parameters.clear_gradients(&mut encoder);
                encoder.clear_buffer(self.loss_sum.buffer(), 0, None);
                self.tape.record_prepare(&mut encoder);
            }
            self.tape.record_forward(&mut encoder);
            self.tape.record_backward(&mut encoder);
            if optimise && i + 1 == batches.len() {
                self.optimise.record(&mut encoder);
            }
            self.gpu.submit([encoder.finish()]);
        }
        Ok(())
    }

    /// Waits for all steps submitted and says what came of those not heard of yet.
    ///
    /// # Errors
    /// [`TrainError::NotFinite`] for the first step with a loss or a gradient that is not finite: the parameters are those
    /// before it, whatever was submitted after it.
    pub async fn records(&mut self) -> Result<Vec<StepRecord>> {
        let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
        self.record_back.copy_from(&mut encoder, &self.record);
        self.gpu.submit([encoder.finish()]);
        let values: Vec<f32> = self.record_back.read(&self.gpu, 2 * SLOTS).await?;
        let first = self.step + 1 - self.unread.len() as u64;
        let mut records = Vec::new();
        for (step, batches) in (first..).zip(std::mem::take(&mut self.unread)) {
            let slot = (step % SLOTS as u64) as usize;
            let (loss, gradient_norm) = (values[2 * slot], values[2 * slot + 1]);
            if !(loss.is_finite() && gradient_norm.is_finite()) {
                self.step = step - 1;
                return Err(self.why(step, loss, &batches).await?.into());
            }
            let learning_rate = self.settings.schedule.rate(step);
            records.push(StepRecord { step, loss, gradient_norm, learning_rate });
        }
        Ok(records)
    }

    /// Goes through a bad step again, whose parameters and batches are still there, and looks where it goes wrong.
    async fn why(&self, step: u64, loss: f32, batches: &[Batch]) -> Result<TrainError> {
        let error = |what, tensor: String| TrainError::NotFinite { step, loss, what, tensor };
        let bad = |tensors: Vec<NamedTensor>| {
            let mut names = tensors.into_iter().filter(|t| t.values.iter().any(|x| !x.is_finite()));
            names.next().map(|t| t.name)
        };
        if let Some(name) = bad(self.parameters.read(&self.gpu, Side::Value).await?) {
            return Ok(error("the parameter", name));
        }
        for batch in batches {
            self.tape.write(batch)?;
            let mut encoder = self.gpu.device().create_command_encoder(&Default::default());
            self.tape.record_prepare(&mut encoder);
            self.tape.record_forward(&mut encoder);
            self.gpu.submit_and_wait(encoder.finish()).await?;
            if let Some(name) = self.tape.not_finite().await? {
                return Ok(error("the activation", name));
            }
        }
        self.run(step, batches, false)?;
        if let Some(name) = bad(self.parameters.read(&self.gpu, Side::Gradient).await?) {
            return Ok(error("the gradient", name));
        }
        Ok(error("the sum of squares", "the gradients".into()))
    }

    /// All that the next steps depend on. Waits for the steps submitted.
    pub async fn state(&self) -> Result<TrainerState> {
        let read = async |side| self.parameters.read(&self.gpu, side).await;
        Ok(TrainerState {
            step: self.step,
            parameters: read(Side::Value).await?,
            m: read(Side::M).await?,
            v: read(Side::V).await?,
        })
    }

    /// The gradients of the last step submitted, before clipping.
    pub async fn gradients(&self) -> Result<Vec<NamedTensor>> {
        self.parameters.read(&self.gpu, Side::Gradient).await
    }

    /// A tape that says what the model, as it is after the steps submitted, makes of batches of `sequences` x `length`.
    ///
    /// # Errors
    /// Buffers over the adapter's limits; a full memory.
    pub fn evaluation(&self, sequences: usize, length: usize) -> Result<Tape> {
        Tape::evaluation(&self.gpu, &self.parameters, (sequences, length))
    }

    /// Whether the device has stopped learning for a loss that was not finite.
    pub async fn frozen(&self) -> Result<bool, GpuError> {
        Ok(self.clip.read::<u32>(&self.gpu).await?.get(1).is_some_and(|&frozen| frozen != 0))
    }
}
