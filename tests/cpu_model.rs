//! The CPU backend: the embedded model against transformers' numbers, and its sessions' promises.
#![cfg(feature = "embedded-model")]

use mamba_wgpu::{
    error::InputError,
    generate::SamplingParams,
    model::{
        embedded, synthetic::Spec, Arch, Backend, Checkpoint, LanguageModel, ModelOptions, Scan, Scores, Session,
        StateData,
    },
    Error, Result,
};
use pollster::block_on;

fn load(checkpoint: &Checkpoint, scan: Scan, chunk: usize) -> LanguageModel {
    try_load(checkpoint, ModelOptions { scan, chunk, ..Default::default() }).unwrap()
}

fn try_load(checkpoint: &Checkpoint, options: ModelOptions) -> Result<LanguageModel> {
    block_on(LanguageModel::load(checkpoint, &Backend::Cpu, options, &mut |_, _| {}))
}

/// A session on the CPU never waits: its methods without `async`.
struct CpuSession(Session);

impl CpuSession {
    fn new(model: &LanguageModel) -> Self {
        Self(model.session().unwrap())
    }
    fn prefill(&mut self, tokens: &[u32], progress: &mut dyn FnMut(usize, usize)) -> Result<()> {
        block_on(self.0.prefill(tokens, progress))
    }
    fn step(&mut self, token: u32) -> Result<()> {
        block_on(self.0.step(token))
    }
    fn logits(&mut self) -> Result<Vec<f32>> {
        block_on(self.0.logits())
    }
    fn score(
        &mut self,
        tokens: &[u32],
        targets: Option<&[u32]>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Scores> {
        block_on(self.0.score(tokens, targets, progress))
    }
    fn begin_sampling(&mut self, params: &SamplingParams, context: &[u32]) -> Result<()> {
        self.0.begin_sampling(params, context)
    }
    fn sample(&mut self) -> Result<u32> {
        block_on(self.0.sample())
    }
    fn try_clone(&self) -> Result<Self> {
        self.0.try_clone().map(Self)
    }
    fn reset(&mut self) {
        self.0.reset();
    }
    fn state(&mut self) -> Result<StateData> {
        block_on(self.0.state())
    }
    fn set_state(&mut self, state: &StateData) -> Result<()> {
        self.0.set_state(state)
    }
}

fn prefilled(model: &LanguageModel, tokens: &[u32]) -> CpuSession {
    let mut session = CpuSession::new(model);
    session.prefill(tokens, &mut |_, _| {}).unwrap();
    session
}

/// The worst absolute difference, infinite for NaN.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |worst, d| if d.is_nan() { f32::INFINITY } else { worst.max(d) })
}

struct Prompt {
    tokens: Vec<u32>,
    last_logits: Vec<f32>,
    greedy: Vec<u32>,
}

fn prompts() -> Vec<Prompt> {
    let json = std::fs::read("tests/data/austen-4m/expected.json").unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let tokens = |value: &serde_json::Value| -> Vec<u32> {
        value.as_array().unwrap().iter().map(|token| token.as_u64().unwrap() as u32).collect()
    };
    let prompt = |prompt: &serde_json::Value| Prompt {
        tokens: tokens(&prompt["tokens"]),
        last_logits: serde_json::from_value(prompt["last_logits"].clone()).unwrap(),
        greedy: tokens(&prompt["greedy_tokens"]),
    };
    json["prompts"].as_array().unwrap().iter().map(prompt).collect()
}

#[test]
fn embedded_model_by_every_scan_and_chunk() {
    let checkpoint = embedded::checkpoint().unwrap();
    let prompts = prompts();
    assert_eq!(prompts.len(), 3);
    for scan in Scan::ALL {
        for chunk in [1, 7, 64, 512] {
            let model = load(&checkpoint, scan, chunk);
            for prompt in &prompts {
                let mut session = prefilled(&model, &prompt.tokens);
                let logits = session.logits().unwrap();
                let worst = distance(&logits, &prompt.last_logits);
                assert!(worst < 1e-3, "{scan}, chunk {chunk}: {worst}");
                session.begin_sampling(&SamplingParams::default(), &prompt.tokens).unwrap();
                let mut greedy = vec![];
                while greedy.len() < 64 {
                    let token = session.sample().unwrap();
                    session.step(token).unwrap();
                    greedy.push(token);
                }
                assert_eq!(greedy, prompt.greedy, "{scan}, chunk {chunk}");
            }
        }
    }
    // The comparison notices other logits.
    assert!(distance(&prompts[0].last_logits, &prompts[1].last_logits) > 1e-3);
    assert_eq!(distance(&[0.0, f32::NAN], &[0.0, 0.0]), f32::INFINITY);
}

/// Odd sizes of all architectures, with and without biases and a head of its own.
fn odd_models() -> Vec<Checkpoint> {
    let tiny = Spec { vocab_size: 37, ..Spec::preset("tiny").unwrap() };
    let specs = [
        tiny.clone(),
        Spec { tied: false, use_bias: true, use_conv_bias: false, ..tiny.clone() }
            .with(|s| (s.d_conv, s.d_state) = (2, 1)),
        Spec { tied: false, seed: 3, ..tiny.clone() }.with(|s| (s.d_state, s.d_conv) = (17, 1)).of(Arch::FalconMamba),
        Spec { use_bias: true, ..tiny }.with(|s| (s.d_state, s.d_inner, s.dt_rank) = (64, 7, 1)).of(Arch::FalconMamba),
        Spec { use_bias: true, ..Spec::preset("mamba2-tiny").unwrap() },
    ];
    specs.iter().map(|spec| spec.checkpoint().unwrap()).collect()
}

#[test]
fn prefill_is_decode_unrolled_for_any_split() {
    let tokens: Vec<u32> = (0..45).map(|i| i * i % 37).collect();
    for checkpoint in odd_models() {
        let mut steps = CpuSession::new(&load(&checkpoint, Scan::Sequential, 512));
        for &token in &tokens {
            steps.step(token).unwrap();
        }
        let expected = (steps.logits().unwrap(), steps.state().unwrap());
        assert!(distance(&expected.0, &[0.0; 37]) > 1e-3, "logits that are all 0 compare too easily");
        for scan in Scan::ALL {
            for (chunk, cut) in [(1, 1), (4, 13), (45, 44), (512, 20)] {
                let mut session = prefilled(&load(&checkpoint, scan, chunk), &tokens[..cut]);
                session.prefill(&tokens[cut..], &mut |_, _| {}).unwrap();
                let state = session.state().unwrap();
                if scan == Scan::Sequential {
                    assert_eq!((session.logits().unwrap(), state), expected);
                    continue;
                }
                assert!(distance(&session.logits().unwrap(), &expected.0) < 1e-5, "{scan} {chunk} {cut}");
                assert!(distance(&state.conv, &expected.1.conv) < 1e-5);
                assert!(distance(&state.ssm, &expected.1.ssm) < 1e-5);
            }
        }
    }
}

#[test]
fn score_agrees_with_the_logits_of_each_position() {
    let checkpoint = &odd_models()[1];
    let tokens: Vec<u32> = (0..150).map(|i| (i * 7 + i * i) % 37).collect();
    let targets: Vec<u32> = tokens.iter().map(|token| (token + 5) % 37).collect();
    // Chunks that hold several blocks of rows, and chunks smaller than one.
    for chunk in [3, 64, 150] {
        let mut scored = CpuSession::new(&load(checkpoint, Scan::Fused, chunk));
        let mut seen = vec![];
        let scores = scored.score(&tokens, Some(&targets), &mut |done, total| seen.push((done, total)));
        let scores = scores.unwrap();
        assert_eq!(seen.last(), Some(&(150, 150)));
        assert_eq!((scores.argmax.len(), scores.nll.len()), (150, 150));
        let mut session = CpuSession::new(&load(checkpoint, Scan::Fused, chunk));
        for (i, &token) in tokens.iter().enumerate() {
            session.step(token).unwrap();
            let logits = session.logits().unwrap();
            let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
            let nll = sum.ln() - f64::from(logits[targets[i] as usize]);
            assert!((f64::from(scores.nll[i]) - nll).abs() < 1e-4, "{i}");
            let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert!(largest - logits[scores.argmax[i] as usize] < 1e-5, "{i}");
        }
        assert!(distance(&scored.logits().unwrap(), &session.logits().unwrap()) < 1e-5);
        // Both continue alike.
        scored.step(1).unwrap();
        session.step(1).unwrap();
        assert!(distance(&scored.logits().unwrap(), &session.logits().unwrap()) < 1e-5);
        assert!(scored.score(&tokens[..1], None, &mut |_, _| {}).unwrap().nll.is_empty());
    }
}

#[test]
fn clone_reset_and_resume() {
    let checkpoint = embedded::checkpoint().unwrap();
    let model = load(&checkpoint, Scan::Fused, 64);
    let lively = SamplingParams { temperature: 1.0, top_k: 50, repetition_penalty: 1.2, seed: 5, ..Default::default() };
    let draw = |session: &mut CpuSession| -> Vec<u32> {
        session.begin_sampling(&lively, &[1, 2, 3, 4_000_000]).unwrap();
        let mut next = || {
            let token = session.sample().unwrap();
            session.step(token).unwrap();
            token
        };
        (0..40).map(|_| next()).collect()
    };
    let mut session = prefilled(&model, &[1, 2, 3]);
    let state = session.state().unwrap();
    let mut clone = session.try_clone().unwrap();
    let first = draw(&mut session);
    assert_eq!(draw(&mut clone), first, "same seed, same tokens");
    assert_ne!(draw(&mut clone), first, "the state has moved");

    session.reset();
    assert_eq!(session.state().unwrap(), CpuSession::new(&model).state().unwrap());
    assert!(matches!(session.logits(), Err(Error::Input(InputError::NoTokens))));
    session.set_state(&state).unwrap();
    assert!(matches!(session.sample(), Err(Error::Input(InputError::NoTokens))));
    session.step(7).unwrap();
    assert_eq!(session.logits().unwrap(), {
        let mut other = prefilled(&model, &[1, 2, 3]);
        other.step(7).unwrap();
        other.logits().unwrap()
    });
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let checkpoint = &odd_models()[0];
    let model = load(checkpoint, Scan::Fused, 4);
    let mut session = prefilled(&model, &[1, 2]);
    let before = (session.state().unwrap(), session.logits().unwrap());
    let input = |result: mamba_wgpu::Result<()>| match result {
        Err(Error::Input(error)) => error,
        other => panic!("{other:?}"),
    };
    let out_of_range = InputError::TokenOutOfRange { token: 37, position: 4, vocab_size: 37 };
    let bad = [0, 1, 2, 3, 37];
    let quiet = &mut |_, _| {};
    assert_eq!(input(session.prefill(&bad, quiet)), out_of_range);
    assert_eq!(input(session.prefill(&[], quiet)), InputError::NoTokens);
    assert_eq!(input(session.score(&bad, None, quiet).map(drop)), out_of_range);
    assert_eq!(input(session.score(&[0; 5], Some(&bad), quiet).map(drop)), out_of_range);
    assert!(matches!(
        input(session.score(&[1, 2], Some(&[1]), quiet).map(drop)),
        InputError::LengthMismatch { what: "targets", got: 1, expected: 2 }
    ));
    assert!(matches!(input(session.step(u32::MAX)), InputError::TokenOutOfRange { position: 0, .. }));
    let mut state = session.state().unwrap();
    state.ssm.pop();
    assert!(matches!(input(session.set_state(&state)), InputError::StateShape { what: "ssm_state", .. }));
    let params = SamplingParams { temperature: f32::NAN, ..Default::default() };
    assert!(matches!(session.begin_sampling(&params, &[]), Err(Error::Generate(_))));
    assert_eq!((session.state().unwrap(), session.logits().unwrap()), before);

    let options = ModelOptions { chunk: 0, ..Default::default() };
    let zero = try_load(checkpoint, options);
    assert_eq!(input(zero.map(drop)), InputError::ZeroChunk);
}

#[test]
fn nan_in_the_state_is_an_error_not_a_token() {
    let checkpoint = &odd_models()[0];
    let mut session = CpuSession::new(&load(checkpoint, Scan::Fused, 4));
    let mut state = session.state().unwrap();
    state.ssm.fill(f32::NAN);
    session.set_state(&state).unwrap();
    session.step(1).unwrap();
    assert!(matches!(session.sample(), Err(Error::Input(InputError::NoTokenToChoose))));
    session.set_state(&state).unwrap();
    let scores = session.score(&[1], None, &mut |_, _| {});
    assert!(matches!(scores, Err(Error::Input(InputError::NoTokenToChoose))));
}
