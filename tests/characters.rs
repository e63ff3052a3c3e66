//! A character whose bytes two runs share, as the program and the library write it. The model says one token after the
//! other, whatever came before; its tokens are bytes.

#[path = "common/make.rs"]
mod make;

use assert_cmd::Command;
use make::Model;
use mamba_wgpu::generate::{GenerateOptions, Text, Tokenizer};
use mamba_wgpu::model::synthetic::Spec;
use mamba_wgpu::model::{Backend, Checkpoint, LanguageModel, ModelId, ModelOptions};
use pollster::block_on;
use serde_json::{json, Map, Value};
use std::path::{Path, PathBuf};

/// A folder with a model that goes on with the next of these bytes, each of which comes once, and from the last to the
/// first.
fn model(folder: &Path, bytes: &[u8]) -> PathBuf {
    let n = bytes.len();
    let spec = Spec { tied: false, ..Spec::new(1, n, n) };
    let fill = |t: &mut make::Tensor, f: &dyn Fn(usize) -> f32| {
        t.data = (0..t.data.len() / 4).flat_map(|i| f(i).to_le_bytes()).collect();
    };
    let model = Model::new(&spec)
        .edit("embeddings.weight", |t| fill(t, &|i| f32::from(i / n == i % n)))
        .edit("out_proj.weight", |t| fill(t, &|_| 0.0))
        .edit("lm_head.weight", |t| fill(t, &|i| f32::from(i / n == (i % n + 1) % n)))
        .config("eos_token_id", Value::Null);
    let path = folder.join("model");
    std::fs::create_dir_all(&path).unwrap();
    model.save(&path);
    std::fs::write(path.join("tokenizer.json"), tokenizer_json(bytes)).unwrap();
    path
}

/// GPT-2's way of writing a byte.
fn letter(byte: u8) -> char {
    match byte {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        0x00..=0x20 => char::from_u32(0x100 + u32::from(byte)).unwrap(),
        0x7f..=0xa0 => char::from_u32(0x121 + u32::from(byte - 0x7f)).unwrap(),
        0xad => '\u{143}',
    }
}

fn tokenizer_json(bytes: &[u8]) -> String {
    let vocab: Map<_, _> = bytes.iter().enumerate().map(|(id, &b)| (letter(b).to_string(), json!(id))).collect();
    let level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": level, "post_processor": null, "decoder": level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []},
    })
    .to_string()
}

/// Two, three and four bytes.
const WHOLE: &str = "aé€b🦀c";

fn generate(model: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("mamba-wgpu"));
    let command =
        command.args(["generate", "--backend", "cpu", "--temperature", "0", "--model"]).arg(model).args(arguments);
    String::from_utf8(command.assert().success().get_output().stdout.clone()).unwrap()
}

fn line(text: &str) -> &str {
    text.strip_suffix('\n').unwrap()
}

#[test]
fn a_character_split_over_a_saved_state_appears_once() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path(), WHOLE.as_bytes());
    let state = folder.path().join("a.state");
    let state = state.to_str().unwrap();
    let all = WHOLE.len() - 1;
    for first in 1..all {
        let (n, rest) = (first.to_string(), (all - first).to_string());
        let one = generate(&model, &["a", "--max-tokens", &n, "--state-out", state]);
        let two = generate(&model, &["--max-tokens", &rest, "--state-in", state]);
        assert_eq!(format!("{}{}", line(&one), line(&two)), WHOLE, "after {first}");
        let json: Value =
            serde_json::from_str(&generate(&model, &["a", "--max-tokens", &n, "--state-out", state, "--json"]))
                .unwrap();
        assert_eq!(format!("a{}", json["text"].as_str().unwrap()), line(&one));
        // Whoever does not go on sees that something is missing.
        let alone = generate(&model, &["a", "--max-tokens", &n]);
        assert_eq!(line(&alone), String::from_utf8_lossy(&WHOLE.as_bytes()[..=first]));
    }
}

#[test]
fn a_character_over_three_runs_and_a_prompt_in_between() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path(), WHOLE.as_bytes());
    let state = folder.path().join("a.state");
    let state = state.to_str().unwrap();
    let both = ["--state-in", state, "--state-out", state];
    // a é € b, and the first byte of the crab; then each of the others.
    let mut text = line(&generate(&model, &["a", "--max-tokens", "7", "--state-out", state])).to_owned();
    for _ in 0..3 {
        assert_eq!(text, "aé€b");
        text += line(&generate(&model, &[&both[..], &["--max-tokens", "1"]].concat()));
    }
    assert_eq!(text, "aé€b🦀");
    // A prompt ends what was begun: all tokens, decoded.
    generate(&model, &["a", "--max-tokens", "8", "--state-out", state]);
    let more = generate(&model, &["b", "--max-tokens", "4", "--state-in", state]);
    assert_eq!(line(&more), "\u{fffd}b🦀");
}

#[test]
fn bytes_that_never_become_a_character() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = b"a\xe2\x82b\xf0\x9f\xc3c";
    let model = model(folder.path(), bytes);
    let state = folder.path().join("a.state");
    let state = state.to_str().unwrap();
    for first in 1..bytes.len() - 1 {
        let (n, rest) = (first.to_string(), (bytes.len() - 1 - first).to_string());
        let one = generate(&model, &["a", "--max-tokens", &n, "--state-out", state]);
        let two = generate(&model, &["--max-tokens", &rest, "--state-in", state]);
        assert_eq!(format!("{}{}", line(&one), line(&two)), String::from_utf8_lossy(bytes), "after {first}");
    }
}

/// As the page and the window do it: back into the middle of a character, and forks from there.
#[test]
fn texts_taken_back_into_a_character_and_forked() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = Checkpoint::open(&model(folder.path(), WHOLE.as_bytes())).unwrap();
    let (n, id) = (WHOLE.len(), ModelId::of(&checkpoint));
    let tokenizer = Tokenizer::from_bytes(checkpoint.tokenizer_json().unwrap(), n).unwrap();
    let model =
        block_on(LanguageModel::load(&checkpoint, &Backend::Cpu, ModelOptions::default(), &mut |_, _| {})).unwrap();
    let go_on = |text: Text, max_tokens: usize| {
        let options = GenerateOptions { max_tokens, to_be_continued: true, ..Default::default() };
        let mut generator = text.generate(&tokenizer, options).unwrap();
        let mut out = String::new();
        while let Some(piece) = block_on(generator.next()).unwrap() {
            out += &piece.text;
        }
        (out, Text::from_generator(generator))
    };
    let mut text = Text::new(model.session().unwrap()).keeping_states(4);
    text.push(&[0]);
    let (out, mut text) = go_on(text, n - 1);
    assert_eq!(format!("a{out}"), WHOLE);
    for length in (1..n).rev() {
        block_on(text.rewind(length)).unwrap();
        let so_far = tokenizer.decode_so_far(text.tokens()).unwrap();
        assert_eq!(tokenizer.pieces_so_far(text.tokens()).unwrap().concat(), so_far);
        let fork = block_on(text.save(&id)).unwrap();
        let mut forked = Text::new(model.session().unwrap());
        forked.restore(&fork).unwrap();
        assert_eq!(so_far.clone() + &go_on(forked, n - length).0, WHOLE, "forked at {length}");
        let (out, back) = go_on(text, n - length);
        assert_eq!(so_far + &out, WHOLE, "back to {length}");
        text = back;
    }
}
