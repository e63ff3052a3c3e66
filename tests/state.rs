//! A text that is saved, carried elsewhere and continued, or taken back, is the text that it would have been without.

mod common;

use common::{load, repository, On, WHOLE};
use mamba_wgpu::generate::{GenerateOptions, SamplingParams, Text, Tokenizer};
use mamba_wgpu::model::{Backend, Checkpoint, LanguageModel, ModelId, SavedState, Scan, StateError};
use pollster::block_on;
use std::path::Path;

const PROMPT: &str = "It is a truth universally acknowledged, that";

/// Every way of sampling that has a memory: random numbers, and tokens seen.
fn options(max_tokens: usize) -> GenerateOptions {
    let params =
        SamplingParams { temperature: 1.1, top_p: 0.9, repetition_penalty: 1.3, seed: 7, ..Default::default() };
    GenerateOptions { max_tokens, params, ..Default::default() }
}

fn greedy(max_tokens: usize) -> GenerateOptions {
    GenerateOptions { max_tokens, ..Default::default() }
}

struct Setting {
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    model: LanguageModel,
    id: ModelId,
}

impl Setting {
    async fn new(backend: &Backend) -> Self {
        let checkpoint = Checkpoint::open(&repository("models/austen-4m")).unwrap();
        let model = load(&checkpoint, backend, Scan::Fused, WHOLE).await;
        let tokenizer = Tokenizer::from_bytes(checkpoint.tokenizer_json().unwrap(), 4096).unwrap();
        let id = ModelId::of(&checkpoint);
        Self { checkpoint, tokenizer, model, id }
    }

    /// A text with the prompt, not yet read.
    fn begin(&self) -> Text {
        let mut text = Text::new(self.model.session().unwrap()).keeping_states(8);
        text.push(&self.tokenizer.encode(PROMPT).unwrap());
        text
    }

    async fn go_on(&self, text: Text, options: GenerateOptions) -> Text {
        let mut generator = text.generate(&self.tokenizer, options).unwrap();
        while generator.next().await.unwrap().is_some() {}
        Text::from_generator(generator)
    }

    async fn read_back(&self, path: &Path) -> Text {
        let saved = SavedState::read(path).unwrap();
        saved.check_model("f", &self.id).unwrap();
        let mut text = Text::new(self.model.session().unwrap());
        text.restore(&saved).unwrap();
        text
    }
}

fn a_saved_text_goes_on_as_if_nothing_had_been(on: On, elsewhere: On) {
    block_on(async {
        let here = Setting::new(&on.open().await).await;
        let there = Setting::new(&elsewhere.open().await).await;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text.state");
        // A GPU here is a slow one.
        let ways: &[fn(usize) -> GenerateOptions] = if on == On::Cpu { &[greedy, options] } else { &[options] };
        for options in ways {
            let whole = here.go_on(here.begin(), options(30)).await;
            let mut first = here.go_on(here.begin(), options(13)).await;
            first.save(&here.id).await.unwrap().write(&path).unwrap();
            assert_eq!(first.pending().len(), 1);
            let second = there.go_on(there.read_back(&path).await, options(17)).await;
            assert_eq!(second.tokens(), whole.tokens());
            // The test can fail: a state that is a little off, or a place that is, gives another text.
            let mut off = SavedState::read(&path).unwrap();
            off.state.ssm.iter_mut().for_each(|h| *h = -*h);
            off.write(&path).unwrap();
            let other = there.go_on(there.read_back(&path).await, options(17)).await;
            assert_ne!(other.tokens(), whole.tokens());
        }
    });
}

#[test]
fn a_saved_text_goes_on_on_the_cpu() {
    a_saved_text_goes_on_as_if_nothing_had_been(On::Cpu, On::Cpu);
}

#[test]
fn a_saved_text_goes_on_on_the_gpu() {
    a_saved_text_goes_on_as_if_nothing_had_been(On::Gpu, On::Gpu);
}

#[test]
fn a_text_saved_on_the_gpu_goes_on_on_the_cpu() {
    a_saved_text_goes_on_as_if_nothing_had_been(On::Gpu, On::Cpu);
}

fn undo_and_fork(on: On) {
    block_on(async {
        let setting = Setting::new(&on.open().await).await;
        let mut text = setting.go_on(setting.begin(), options(30)).await;
        let whole = text.tokens().to_vec();
        // To every kind of place: pending only, between marks, on one, before the first, the prompt's begin.
        let places = [whole.len(), whole.len() - 1, 25, 17, 9, 2];
        for length in places.into_iter().skip(if on == On::Cpu { 0 } else { 3 }) {
            text.rewind(length).await.unwrap();
            assert_eq!(text.tokens(), &whole[..length]);
            assert_eq!(text.pending(), &whole[length - 1..length]);
            text = setting.go_on(text, options(whole.len() - length + 3)).await;
            if length >= 12 {
                // Within what was drawn: the same draws again.
                assert_eq!(text.tokens()[..whole.len()], whole, "back to {length}");
            }
        }
        // Both ways from one point.
        text.rewind(6).await.unwrap();
        let fork = text.save(&setting.id).await.unwrap();
        let left = setting.go_on(text, options(10)).await;
        let mut right = Text::new(setting.model.session().unwrap());
        right.restore(&fork).unwrap();
        right.push(&setting.tokenizer.encode(" man of letters").unwrap());
        let right = setting.go_on(right, options(10)).await;
        let mut again = Text::new(setting.model.session().unwrap());
        again.restore(&fork).unwrap();
        assert_eq!(setting.go_on(again, options(10)).await.tokens(), left.tokens());
        assert_ne!(right.tokens()[..12], left.tokens()[..12]);
        assert_eq!(right.tokens()[..6], left.tokens()[..6]);

        let mut none = right;
        none.rewind(0).await.unwrap();
        assert!(none.tokens().is_empty() && none.pending().is_empty());
        assert!(none.generate(&setting.tokenizer, greedy(1)).is_err(), "nothing to continue");
    });
}

#[test]
fn undo_and_fork_on_the_cpu() {
    undo_and_fork(On::Cpu);
}

#[test]
fn undo_and_fork_on_the_gpu() {
    undo_and_fork(On::Gpu);
}

#[test]
fn a_text_without_a_pending_token_is_saved_with_one() {
    block_on(async {
        let setting = Setting::new(&Backend::Cpu).await;
        let mut generator = setting.begin().generate(&setting.tokenizer, greedy(8)).unwrap();
        while generator.next().await.unwrap().is_some() {}
        generator.settle().await.unwrap();
        let mut text = Text::from_generator(generator);
        assert!(text.pending().is_empty());
        let saved = text.save(&setting.id).await.unwrap();
        assert_eq!((saved.pending().len(), saved.tokens.len()), (1, text.tokens().len()));
        let mut text = Text::new(setting.model.session().unwrap());
        text.restore(&saved).unwrap();
        let text = setting.go_on(text, greedy(8)).await;
        assert_eq!(text.tokens(), setting.go_on(setting.begin(), greedy(16)).await.tokens());
    });
}

#[test]
fn fingerprints_tell_weights_apart_and_nothing_else() {
    let golden = |name: &str| Checkpoint::open(&repository(&format!("tests/golden/checkpoints/{name}"))).unwrap();
    let of = |name: &str| golden(name).fingerprint();
    // The same weights under the other naming scheme.
    assert_eq!(of("original"), of("original-twin"));
    let names = ["original", "falcon-untied", "falcon-tied-eps", "f16", "bf16", "sharded", "conv1"];
    let mut all: Vec<_> = names.iter().map(|name| of(name).to_string()).collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), names.len());

    // One weight of a small tensor, changed in its last bit.
    let folder = repository("models/austen-4m");
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let austen = |weights: Vec<u8>| {
        Checkpoint::from_bytes(&read("config.json"), vec![weights.into()], None).unwrap().fingerprint()
    };
    let mut weights = read("model.safetensors");
    let same = austen(weights.clone());
    let last = weights.len() - 2;
    weights[last] ^= 1;
    assert_ne!(austen(weights), same);
}

mod command_line {
    use super::*;
    use assert_cmd::Command;

    fn generate(arguments: &[&str]) -> (String, String, i32) {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("mamba-wgpu"));
        let output = command.args(["generate", "--backend", "cpu"]).args(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (text(output.stdout), text(output.stderr), output.status.code().unwrap())
    }

    #[test]
    fn a_text_goes_on_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("a.state");
        let state = state.to_str().unwrap();
        let sampling = ["--seed", "5", "--temperature", "1.2"];
        let run = |arguments: &[&str]| {
            let (text, stderr, code) = generate(&[arguments, &sampling].concat());
            assert_eq!(code, 0, "{stderr}");
            text.strip_suffix('\n').unwrap().to_string()
        };
        let whole = run(&[PROMPT, "--max-tokens", "24"]);
        let first = run(&[PROMPT, "--max-tokens", "10", "--state-out", state]);
        let second = run(&["--max-tokens", "14", "--state-in", state, "--state-out", state]);
        assert_eq!(first + &second, whole);
        let more = run(&[" Emma", "--max-tokens", "5", "--state-in", state]);
        assert!(more.starts_with(" Emma") && more.len() > 5, "{more:?}");
    }

    #[test]
    fn what_is_no_state_of_this_model_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
        let state = path("a.state");
        let (_, stderr, code) = generate(&[PROMPT, "--max-tokens", "1", "--state-out", &state]);
        assert_eq!(code, 0, "{stderr}");

        let mut saved = SavedState::read(Path::new(&state)).unwrap();
        saved.model.fingerprint = "0f".repeat(32).parse().unwrap();
        saved.write(Path::new(&path("other"))).unwrap();
        let mut bytes = std::fs::read(&state).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        std::fs::write(path("damaged"), &bytes).unwrap();
        bytes[8] = 9;
        std::fs::write(path("newer"), &bytes).unwrap();
        std::fs::write(path("text"), "It is a truth").unwrap();
        for (name, words) in [
            ("other", "another model"),
            ("damaged", "damaged"),
            ("newer", "version 9"),
            ("text", "not a state file"),
            ("none", "No such file"),
        ] {
            let (stdout, stderr, code) = generate(&["--state-in", &path(name)]);
            assert_eq!((stdout.as_str(), code), ("", 1), "{stderr}");
            assert!(stderr.contains(&path(name)) && stderr.contains(words), "{stderr}");
        }
        // What cannot be written is told before anything is computed (tests/outputs.rs has the rest).
        let (stdout, stderr, code) = generate(&[PROMPT, "--max-tokens", "1", "--state-out", &path("no/such/folder")]);
        assert_eq!((stdout.as_str(), code), ("", 1));
        assert!(stderr.contains("no/such/folder"), "{stderr}");
    }
}

#[test]
fn states_of_other_shapes_do_not_reach_the_model() {
    block_on(async {
        let setting = Setting::new(&Backend::Cpu).await;
        let mut text = setting.go_on(setting.begin(), greedy(2)).await;
        let saved = text.save(&setting.id).await.unwrap();
        let mut short = saved.clone();
        short.state.conv.pop();
        assert!(text.restore(&short).unwrap_err().to_string().contains("conv_state"));
        assert_eq!(text.tokens(), saved.tokens);
        let other = ModelId::of(&Checkpoint::open(&repository("tests/golden/checkpoints/f16")).unwrap());
        assert!(matches!(saved.check_model("f", &other), Err(StateError::OtherModel { .. })));
        assert_eq!(ModelId::of(&setting.checkpoint), setting.id);
    });
}
