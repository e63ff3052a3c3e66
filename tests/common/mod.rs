//! What the integration tests share: the one way to compare numbers, the golden checkpoints, the backends.

#![allow(dead_code)] // every test crate uses a part of it

use mamba_wgpu::gpu::{Gpu, GpuOptions};
use mamba_wgpu::model::{Backend, Checkpoint, LanguageModel, ModelOptions, Scan, StateData};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub mod close;
#[allow(unused_imports)] // likewise
pub use close::{assert_close, compare};

/// Every scan there is.
pub const SCANS: [Scan; 3] = [Scan::Sequential, Scan::Blelloch, Scan::Fused];
/// Longer than any text of these tests: one chunk.
pub const WHOLE: usize = 1 << 16;
pub const CHUNKS: [usize; 4] = [1, 7, 64, WHOLE];

/// Which backend a test is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    Cpu,
    Gpu,
}

impl On {
    /// Opens it. No adapter is a failure: a test that skips itself proves nothing.
    pub async fn open(self) -> Backend {
        match self {
            On::Cpu => Backend::Cpu,
            On::Gpu => match Gpu::new(&GpuOptions::default()).await {
                Ok(gpu) => Backend::Gpu(gpu),
                Err(e) => panic!("these tests need an adapter (Mesa's lavapipe is one): {e}"),
            },
        }
    }
}

/// A model of a checkpoint by one scan and one chunk size.
pub async fn load(checkpoint: &Checkpoint, backend: &Backend, scan: Scan, chunk: usize) -> LanguageModel {
    let options = ModelOptions { scan, chunk, ..Default::default() };
    match LanguageModel::load(checkpoint, backend, options, &mut |_, _| {}).await {
        Ok(model) => model,
        Err(e) => panic!("{} does not load: {e}", checkpoint.source()),
    }
}

/// Two states of the same text.
pub fn assert_state(what: &str, got: &StateData, want: &StateData, (atol, rtol): (f64, f64)) {
    assert_close(&format!("{what}: conv_state"), &got.conv, &want.conv, atol, rtol);
    assert_close(&format!("{what}: ssm_state"), &got.ssm, &want.ssm, atol, rtol);
    assert_eq!(got.pages.tokens(), want.pages.tokens(), "{what}");
    let ((keys, values), (want_keys, want_values)) = (got.pages.dense(), want.pages.dense());
    assert_close(&format!("{what}: keys"), &keys, &want_keys, atol, rtol);
    assert_close(&format!("{what}: values"), &values, &want_values, atol, rtol);
}

/// The lowest index of the largest value.
pub fn argmax(values: &[f32]) -> u32 {
    let mut best = 0;
    for (i, v) in values.iter().enumerate() {
        if *v > values[best] {
            best = i;
        }
    }
    best as u32
}

/// A file below tests/ or models/, from wherever the tests run.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// tests/golden/checkpoints/NAME/expected.json; its README says what each field is.
#[derive(Debug, Deserialize)]
pub struct Expected {
    pub config: Dimensions,
    pub sequences: Vec<Sequence>,
}

#[derive(Debug, Deserialize)]
pub struct Dimensions {
    pub d_model: usize,
    pub n_layer: usize,
    pub vocab_size: usize,
    #[serde(default)]
    pub d_inner: usize,
    /// The family's own.
    #[serde(flatten)]
    pub others: std::collections::BTreeMap<String, serde_json::Value>,
}

impl Dimensions {
    /// What the golden says of a dimension of the layers.
    pub fn of_layers(&self, name: &str) -> Option<usize> {
        let other = || self.others.get(name)?.as_u64().map(|n| n as usize);
        if name == "d_inner" {
            Some(self.d_inner)
        } else {
            other()
        }
    }
}

#[derive(Debug, Deserialize)]
pub struct Sequence {
    pub tokens: Vec<u32>,
    pub argmax: Vec<u32>,
    pub last_logits: Vec<f32>,
    pub logits_at: BTreeMap<String, Vec<f32>>,
    pub nll_sum: f64,
    pub greedy: Vec<u32>,
    pub conv_state: Option<Vec<f32>>,
    pub ssm_state: Option<Vec<f32>>,
}

impl Sequence {
    /// (position, logits there), in order.
    pub fn logits_at(&self) -> Vec<(usize, &[f32])> {
        let mut all: Vec<_> = self.logits_at.iter().map(|(t, l)| (t.parse().unwrap(), l.as_slice())).collect();
        all.sort_by_key(|(t, _)| *t);
        all
    }
}

/// Families of tests/golden/hybrids that are refused so far, by the beginnings of their names.
pub const REFUSED: [&str; 2] = ["jamba", "jamba-moe"];

/// Goldens of tests/golden/hybrids that the CPU alone runs.
pub const CPU_ONLY: [&str; 1] = ["llama-heads-of-10"];

/// A golden checkpoint's folder and what is expected of it.
pub struct Golden {
    pub name: String,
    pub folder: PathBuf,
    pub expected: Expected,
}

impl Golden {
    pub fn named(name: &str) -> Self {
        Self::of("tests/golden/checkpoints", name)
    }

    fn of(place: &str, name: &str) -> Self {
        let folder = repository(place).join(name);
        let text = std::fs::read(folder.join("expected.json")).unwrap_or_else(|e| panic!("{name}: {e}"));
        let expected = serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        Self { name: name.into(), folder, expected }
    }

    /// Every folder of tests/golden/checkpoints, by name.
    pub fn all() -> Vec<Self> {
        Self::all_of("tests/golden/checkpoints", 15)
    }

    /// Of tests/golden/mamba2.
    pub fn mamba2_named(name: &str) -> Self {
        Self::of("tests/golden/mamba2", name)
    }

    /// Every folder of tests/golden/mamba2.
    pub fn mamba2() -> Vec<Self> {
        Self::all_of("tests/golden/mamba2", 20)
    }

    /// Of tests/golden/hybrids.
    pub fn hybrid_named(name: &str) -> Self {
        Self::of("tests/golden/hybrids", name)
    }

    /// Of tests/golden/hybrids, those that a backend runs.
    pub fn hybrids(on: On) -> Vec<Self> {
        let mut all = Self::all_of("tests/golden/hybrids", 15);
        all.retain(|golden| !REFUSED.iter().any(|family| golden.name.starts_with(family)));
        all.retain(|golden| on == On::Cpu || !CPU_ONLY.contains(&golden.name.as_str()));
        all
    }

    fn all_of(place: &str, least: usize) -> Vec<Self> {
        let folder = repository(place);
        let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert!(names.len() >= least, "only {} golden checkpoints in {}", names.len(), folder.display());
        names.iter().map(|n| Self::of(place, n)).collect()
    }

    pub fn checkpoint(&self) -> Checkpoint {
        match Checkpoint::open(&self.folder) {
            Ok(checkpoint) => checkpoint,
            Err(e) => panic!("{}: {e}", self.name),
        }
    }
}

/// SplitMix64: the same numbers everywhere from a seed.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In 0..n (the bias of the remainder is of no matter here).
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}
