//! gradient_norm, gradient_clip and adamw against their twins.

use super::data::{close, f64s, run, tensor, CheckError, Random};
use crate::gpu::{Gpu, Tensor};
use crate::kernels::{self, AdamBuffers, AdamW, Step, StepTensors};
use crate::reference::{self, AdamStep, AdamWeights};

/// Two steps over `elements` values (a multiple of 4) in two runs of them.
pub async fn adamw(
    gpu: &Gpu,
    elements: usize,
    decayed: usize,
    max_norm: f32,
    random: &mut Random,
) -> Result<(), CheckError> {
    let adam = AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, max_norm };
    let w = AdamWeights {
        beta1: f64::from(adam.beta1),
        beta2: f64::from(adam.beta2),
        eps: f64::from(adam.eps),
        weight_decay: f64::from(adam.weight_decay),
    };
    let value = random.vec(elements, -1.0, 1.0);
    let (m, v) = (vec![0.0; elements], vec![0.0; elements]);
    let tensors = [tensor(gpu, &value)?, tensor(gpu, &m)?, tensor(gpu, &v)?];
    let (mut value, mut m, mut v) = (f64s(&value), f64s(&m), f64s(&v));
    let what = format!("adamw of {elements}, max_norm {max_norm}");
    let partials = Tensor::zeros(gpu, "partials", 2 * kernels::partial_sums(elements))?;
    let (clip, record) = (Tensor::zeros(gpu, "clip", 2)?, Tensor::zeros(gpu, "record", 4)?);
    let mut want_record = Vec::new();
    for t in 1..=2 {
        // The second run of gradients counts in the norm alone.
        let (gradient, other) = (random.vec(elements, -2.0, 2.0), random.vec(elements, -2.0, 2.0));
        let (correction1, correction2) = (1.0 - w.beta1.powi(t), (1.0 - w.beta2.powi(t)).sqrt());
        let step = Step {
            loss_scale: 0.25,
            learning_rate: 0.01,
            correction1: correction1 as f32,
            correction2: correction2 as f32,
            slot: t as u32 - 1,
        };
        let (tg, to) = (tensor(gpu, &gradient)?, tensor(gpu, &other)?);
        let (ts, tl) = (Tensor::new(gpu, "step", &[step])?, tensor(gpu, &[10.0 * t as f32])?);
        let shared = StepTensors { step: &ts, clip: &clip, loss_sum: &tl, record: &record, partials: &partials };
        let [tv, tm, tw] = &tensors;
        run(gpu, |plan| {
            let first = kernels::gradient_norm(plan, &tg, &partials, 0)?;
            let count = first + kernels::gradient_norm(plan, &to, &partials, first)?;
            kernels::gradient_clip(plan, &shared, count, max_norm)?;
            let buffers = AdamBuffers { value: tv, gradient: &tg, m: tm, v: tw, decayed };
            kernels::adamw(plan, &buffers, &shared, &adam)
        })
        .await?;
        let squares = reference::gradient_norm(&f64s(&gradient)) + reference::gradient_norm(&f64s(&other));
        let clip = reference::gradient_clip(squares, f64::from(max_norm));
        let step = AdamStep { learning_rate: f64::from(0.01f32), correction1, correction2, clip };
        reference::adamw(&mut value, &f64s(&gradient), &mut m, &mut v, decayed, (&w, &step));
        want_record.extend([2.5 * f64::from(t), squares.sqrt()]);
    }
    let [tv, tm, tw] = &tensors;
    close(&what, &tv.read(gpu).await?, &value, 1e-6, 2e-6)?;
    close(&format!("{what}, m"), &tm.read(gpu).await?, &m, 1e-7, 1e-5)?;
    close(&format!("{what}, v"), &tw.read(gpu).await?, &v, 1e-7, 1e-5)?;
    close(&format!("{what}, record"), &record.read(gpu).await?, &want_record, 1e-6, 1e-5)
}

/// A gradient with a NaN leaves the parameters alone, and so do the steps after it.
pub async fn frozen(gpu: &Gpu, elements: usize, random: &mut Random) -> Result<(), CheckError> {
    let adam = AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, max_norm: 1.0 };
    let before = random.vec(elements, -1.0, 1.0);
    let (value, m, v) = (tensor(gpu, &before)?, tensor(gpu, &vec![0.0; elements])?, tensor(gpu, &vec![0.0; elements])?);
    let partials = Tensor::zeros(gpu, "partials", kernels::partial_sums(elements))?;
    let (clip, record) = (Tensor::zeros(gpu, "clip", 2)?, Tensor::zeros(gpu, "record", 4)?);
    let (good, mut bad) = (random.vec(elements, -2.0, 2.0), random.vec(elements, -2.0, 2.0));
    bad[elements / 2] = f32::NAN;
    for (slot, gradient) in [bad, good].iter().enumerate() {
        let step = Step { loss_scale: 1.0, learning_rate: 0.01, correction1: 0.1, correction2: 0.2, slot: slot as u32 };
        let (tg, tl) = (tensor(gpu, gradient)?, tensor(gpu, &[1.0])?);
        let ts = Tensor::new(gpu, "step", &[step])?;
        let shared = StepTensors { step: &ts, clip: &clip, loss_sum: &tl, record: &record, partials: &partials };
        run(gpu, |plan| {
            let count = kernels::gradient_norm(plan, &tg, &partials, 0)?;
            kernels::gradient_clip(plan, &shared, count, adam.max_norm)?;
            let buffers = AdamBuffers { value: &value, gradient: &tg, m: &m, v: &v, decayed: elements };
            kernels::adamw(plan, &buffers, &shared, &adam)
        })
        .await?;
    }
    close("adamw, frozen", &value.read(gpu).await?, &f64s(&before), 0.0, 0.0)?;
    let record: Vec<f32> = record.read(gpu).await?;
    match record[1].is_nan() && record[3].is_finite() {
        true => Ok(()),
        false => Err(CheckError::Differs { what: "gradient_clip".into(), difference: format!("record {record:?}") }),
    }
}
