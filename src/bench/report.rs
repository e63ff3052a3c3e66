//! What was measured, and on what: to JSON and back.

use super::spread::{rounded, Spread};
use super::steady::{FEW, MOST_SLOWDOWN};
use super::suite::Suite;
use crate::gpu::{AdapterSummary, Gpu};
use serde::{Deserialize, Serialize};

/// A whole run of `mamba-wgpu bench`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub device: Device,
    /// The crate's version and the commit it was built from ("unknown" outside a repository).
    pub version: String,
    pub commit: String,
    /// When the run began, in UTC: `2026-11-24T12:00:00Z`.
    pub date: String,
    /// Seconds that the run was allowed.
    pub time_limit_s: f64,
    /// Whether it was ended from outside, by Ctrl-C for one.
    pub interrupted: bool,
    /// What the device stands in; null in a browser and in reports of before there were warm-ups.
    #[serde(default)]
    pub host: Option<Host>,
    /// The suites in the order in which they were measured.
    #[serde(default)]
    pub order: Vec<Suite>,
    /// The reference kernel's best time in the run, in microseconds; null in reports of before there was one.
    #[serde(default)]
    pub reference_us: Option<f64>,
    pub ceilings: Ceilings,
    pub rows: Vec<Row>,
}

/// The adapter, and what of it the device in use has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// What the adapter offers.
    pub adapter: AdapterSummary,
    /// The API it is reached through: vulkan, metal, dx12, gl, webgpu.
    pub backend: String,
    /// The optional features in use, by wgpu's names.
    pub features: Vec<String>,
    /// The limits in use.
    pub limits: Limits,
}

/// The limits that shape the kernels, by WebGPU's names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    pub max_buffer_size: u64,
    pub max_storage_buffer_binding_size: u64,
    pub max_storage_buffers_per_shader_stage: u32,
    pub max_compute_workgroup_storage_size: u32,
    pub max_compute_invocations_per_workgroup: u32,
    pub max_compute_workgroups_per_dimension: u32,
}

impl Device {
    pub fn of(gpu: &Gpu) -> Self {
        let limits = gpu.limits();
        let adapter = gpu.adapter_summary().clone();
        Self {
            backend: adapter.backend.clone(),
            adapter,
            features: gpu.device().features().iter_names().map(|(name, _)| name.to_owned()).collect(),
            limits: Limits {
                max_buffer_size: limits.max_buffer_size,
                max_storage_buffer_binding_size: limits.max_storage_buffer_binding_size,
                max_storage_buffers_per_shader_stage: limits.max_storage_buffers_per_shader_stage,
                max_compute_workgroup_storage_size: limits.max_compute_workgroup_storage_size,
                max_compute_invocations_per_workgroup: limits.max_compute_invocations_per_workgroup,
                max_compute_workgroups_per_dimension: limits.max_compute_workgroups_per_dimension,
            },
        }
    }
}

/// The machine around the device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// The processor's name, where the system tells it.
    pub cpu: Option<String>,
    /// `linux x86_64`.
    pub system: String,
}

/// The device's core clock, as its driver tells it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ClockMhz {
    /// After the row's warm-up.
    pub before: f64,
    /// After its last sample.
    pub after: f64,
}

/// What to beware of in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flag {
    /// Fewer than three samples: the row's time was up.
    FewSamples,
    /// The reference stayed more than 5 % slower beside the samples than at its best: the clock was low, or something else ran.
    Unsteady,
    /// More than what a copy moves: the inputs are read from a cache, or the ceiling is too low.
    AboveCopy,
    /// More than multiply-adds in f32 do: by matrix units, or the ceiling is too low.
    AboveFma,
}

impl std::fmt::Display for Flag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Flag::FewSamples => "few samples",
            Flag::Unsteady => "unsteady",
            Flag::AboveCopy => "above copy",
            Flag::AboveFma => "above FMA",
        })
    }
}

/// What the device did at most, in the same run. `None` if it was not measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Ceilings {
    /// Bytes read and written by a copy, in 10^9 a second.
    pub copy_gbps: Option<f64>,
    /// Operations of f32 multiply-adds in registers (two each), in 10^12 a second.
    pub fma_tflops: Option<f64>,
}

/// One thing measured, or why it was not. Fields that mean nothing to it are null.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub suite: Suite,
    /// Within the suite: `copy`, `fma`; `1536x2048`; `matmul 512x3072x768`, `matvec 3072x768`; `of 50280`; a
    /// model's size; a kernel and its sizes; a model's size, sequences and their tokens.
    pub name: String,
    /// A scan's rung, how a token is chosen, or how weights are held; and "activations f16" where those are, "adamw" where a step
    /// of training includes it.
    pub variant: String,
    /// Tokens: of a scan, a matmul, a prompt, a step of training; of a decode, those generated in each repeat.
    pub l: Option<usize>,
    /// Outputs and inputs of a linear layer; outputs alone: tokens to choose from.
    pub n: Option<usize>,
    pub k: Option<usize>,
    pub d_inner: Option<usize>,
    pub d_state: Option<usize>,
    /// Tokens of a prompt that go through at once.
    pub chunk: Option<usize>,
    /// By the device's clock, of whole models without sampling; null without timestamps, and for prompts of several chunks.
    pub gpu_us: Option<Spread>,
    /// By the host's clock; of a decode, a token's.
    pub wall_us: Option<Spread>,
    /// The median at each place in memory, in microseconds, of the times that the row is about; empty in reports of before there
    /// were several.
    #[serde(default)]
    pub places_us: Vec<f64>,
    /// 10^9 bytes a second that must move at the least: of a scan u, delta, z, y, B and C once; of a matvec and of a
    /// decode the weights.
    pub gbps: Option<f64>,
    /// 10^12 operations a second.
    pub tflops: Option<f64>,
    /// `gbps` and `tflops` in terms of the ceilings.
    pub share_of_copy: Option<f64>,
    pub share_of_fma: Option<f64>,
    pub tokens_per_s: Option<f64>,
    /// Bytes of buffers on the device after a prompt: weights, activations of a chunk, state; or after a step of training.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// The reference kernel's slowest time beside the samples, in terms of its best in the run: 1.0 is full clock.
    #[serde(default)]
    pub reference_slowdown: Option<f64>,
    /// Samples that do not count, since the reference was more than 5 % slower beside them.
    #[serde(default)]
    pub discarded: usize,
    /// Null where no driver tells it.
    #[serde(default)]
    pub clock_mhz: Option<ClockMhz>,
    /// What to beware of: [`Row::flags`].
    #[serde(default)]
    pub flags: Vec<Flag>,
    /// Why nothing was measured; null where something was.
    pub skipped: Option<String>,
}

impl Row {
    /// A row without numbers.
    pub(super) fn new(suite: Suite, name: impl Into<String>, variant: impl Into<String>) -> Self {
        Self {
            suite,
            name: name.into(),
            variant: variant.into(),
            l: None,
            n: None,
            k: None,
            d_inner: None,
            d_state: None,
            chunk: None,
            gpu_us: None,
            wall_us: None,
            places_us: Vec::new(),
            gbps: None,
            tflops: None,
            share_of_copy: None,
            share_of_fma: None,
            tokens_per_s: None,
            memory_bytes: None,
            reference_slowdown: None,
            discarded: 0,
            clock_mhz: None,
            flags: Vec::new(),
            skipped: None,
        }
    }

    /// Of a kernel over l tokens of so many channels, with their states where it has any.
    pub(super) fn of_channels(self, l: usize, channels: usize, states: Option<usize>) -> Self {
        Self { l: Some(l), d_inner: Some(channels), d_state: states, ..self }
    }

    /// The median that rates are computed from: the device's where there is one.
    pub fn median_us(&self) -> Option<f64> {
        self.gpu_us.or(self.wall_us).map(|spread| spread.median)
    }

    /// The times that the row is about: of whole models the host's, of kernels the device's where there are some.
    pub fn spread(&self) -> Option<Spread> {
        match self.suite {
            Suite::Prefill | Suite::Decode | Suite::Training => self.wall_us.or(self.gpu_us),
            _ => self.gpu_us.or(self.wall_us),
        }
    }

    /// What to beware of, from the row's numbers: for reports that were written before flags were, too.
    pub fn flags(&self) -> Vec<Flag> {
        let above = |share: Option<f64>| share.is_some_and(|share| share > 1.0);
        let flags = [
            (Flag::FewSamples, self.spread().is_some_and(|spread| spread.n < FEW)),
            (Flag::Unsteady, self.reference_slowdown.is_some_and(|slowdown| slowdown > MOST_SLOWDOWN)),
            (Flag::AboveCopy, above(self.share_of_copy)),
            (Flag::AboveFma, above(self.share_of_fma)),
        ];
        flags.into_iter().filter(|(_, on)| *on).map(|(flag, _)| flag).collect()
    }

    /// Fills the rates in, for so many bytes and operations a run.
    pub(super) fn rate(&mut self, bytes: Option<f64>, flops: Option<f64>, ceilings: &Ceilings) {
        let Some(us) = self.spread().map(|spread| spread.median).filter(|us| *us > 0.0) else { return };
        self.gbps = bytes.map(|bytes| rounded(bytes / us / 1e3));
        self.tflops = flops.map(|flops| rounded(flops / us / 1e6));
        let share = |value: Option<f64>, of: Option<f64>| Some(rounded(value? / of.filter(|of| *of > 0.0)?));
        self.share_of_copy = share(self.gbps, ceilings.copy_gbps);
        self.share_of_fma = share(self.tflops, ceilings.fma_tflops);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_numbers() {
        assert_eq!(Spread::of(vec![]), None);
        let odd = Spread::of(vec![3.0, 1.0, 2.0]).unwrap();
        assert_eq!((odd.median, odd.min, odd.max, odd.n), (2.0, 1.0, 3.0, 3));
        assert_eq!(Spread::of(vec![4.0, 1.0]).unwrap().median, 2.5);
    }

    #[test]
    fn rows_tell_what_to_beware_of() {
        let mut row = Row::new(Suite::Matmul, "x", "y");
        assert_eq!(row.flags(), []);
        row.gpu_us = Spread::of(vec![1.0; 3]);
        (row.reference_slowdown, row.share_of_copy) = (Some(1.04), Some(1.0));
        assert_eq!(row.flags(), []);
        row.gpu_us = Spread::of(vec![1.0; 2]);
        (row.reference_slowdown, row.share_of_copy, row.share_of_fma) = (Some(1.06), Some(1.1), Some(1.1));
        assert_eq!(row.flags(), [Flag::FewSamples, Flag::Unsteady, Flag::AboveCopy, Flag::AboveFma]);
        // Of whole models the wall time is what counts.
        let decode = Row { suite: Suite::Decode, wall_us: Spread::of(vec![1.0; 5]), ..row };
        assert!(!decode.flags().contains(&Flag::FewSamples));
    }

    #[test]
    fn rates_come_from_the_device_time_first() {
        let mut row = Row::new(Suite::Scan, "x", "y");
        row.wall_us = Spread::of(vec![100.0]);
        row.gpu_us = Spread::of(vec![10.0]);
        let ceilings = Ceilings { copy_gbps: Some(200.0), fma_tflops: None };
        row.rate(Some(1e6), Some(2e6), &ceilings);
        assert_eq!((row.gbps, row.tflops), (Some(100.0), Some(0.2)));
        assert_eq!((row.share_of_copy, row.share_of_fma), (Some(0.5), None));
    }
}
