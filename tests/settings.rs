//! The settings beside the weights: where texts end, how they are drawn, what stands around them.

#[path = "common/beside.rs"]
mod beside;
mod common;

use beside::{mamba, model_with, template, write, MODEL};
use common::repository;
use mamba_wgpu::generate::{GenerateOptions, Generator, SamplingParams, Text};
use mamba_wgpu::model::{Backend, Checkpoint, LanguageModel, ModelId, ModelOptions, SavedState};
use pollster::block_on;
use serde_json::{json, Value};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// A command on the CPU with a model, and its JSON.
fn run(model: &Path, arguments: &[&str]) -> Value {
    let mut command = mamba();
    command.args(arguments).args(["--json", "--model"]).arg(model);
    if arguments[0] != "inspect-model" {
        command.args(["--backend", "cpu"]);
    }
    serde_json::from_slice(&command.assert().success().get_output().stdout).unwrap()
}

const PROMPT: &str = "Emma was";

#[test]
fn a_text_ends_where_generation_config_says() {
    let folder = model_with(|_| {});
    let generate = ["generate", PROMPT, "--temperature", "0", "--max-tokens", "60"];
    let before = run(folder.path(), &generate);
    let tokens: Vec<u64> = before["tokens"].as_array().unwrap().iter().map(|t| t.as_u64().unwrap()).collect();
    let period = tokens.iter().position(|&token| token == 14).expect("the test needs a period in the text");
    assert!(before["generated_tokens"].as_u64().unwrap() > period as u64 + 1);
    assert_eq!((&before["eos_token_id"], &before["from_generation_config"]), (&json!([0]), &json!([])));
    for eos in [json!([0, 14]), json!(14), json!([14.0])] {
        write(&folder, "generation_config.json", &json!({ "_from_model_config": true, "eos_token_id": eos }));
        let after = run(folder.path(), &generate);
        assert_eq!(after["finish_reason"], "eos", "{eos}");
        assert_eq!(after["generated_tokens"], period, "{eos}");
        assert!(after["from_generation_config"][0].as_str().unwrap().starts_with("eos_token_id"));
        // Told otherwise it goes on.
        let on = run(folder.path(), &[&generate[..], &["--ignore-eos"]].concat());
        assert_eq!((&on["tokens"], &on["from_generation_config"]), (&before["tokens"], &json!([])));
    }
    // Without a word of its own config.json counts, and behind it the tokenizer's files.
    write(&folder, "generation_config.json", &json!({ "eos_token_id": null }));
    assert_eq!(run(folder.path(), &generate)["eos_token_id"], json!([0]));
    write(&folder, "tokenizer_config.json", &json!({ "eos_token": { "content": "." } }));
    assert_eq!(run(folder.path(), &generate)["eos_token_id"], json!([0]));
    let mut config: Value = serde_json::from_slice(&fs::read(folder.path().join("config.json")).unwrap()).unwrap();
    config.as_object_mut().unwrap().remove("eos_token_id");
    write(&folder, "config.json", &config);
    let after = run(folder.path(), &generate);
    assert_eq!((&after["eos_token_id"], &after["generated_tokens"]), (&json!([14]), &json!(period)));
}

/// The library ends a text where the model does, without being told.
#[test]
fn generate_options_end_a_text_by_default() {
    let folder = model_with(|_| {});
    write(&folder, "generation_config.json", &json!({ "eos_token_id": [0, 14] }));
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let tokenizer = checkpoint.tokenizer().unwrap().unwrap();
    assert_eq!(tokenizer.end_of_text(), [0, 14]);
    let model =
        block_on(LanguageModel::load(&checkpoint, &Backend::Cpu, ModelOptions::default(), &mut |_, _| {})).unwrap();
    let tokens = |eos: Option<Vec<u32>>| {
        let options = GenerateOptions { max_tokens: 60, eos, ..Default::default() };
        let prompt = tokenizer.encode_with_special_tokens(PROMPT).unwrap();
        let mut text = Generator::new(model.session().unwrap(), &tokenizer, &prompt, options).unwrap();
        let mut tokens = Vec::new();
        while let Some(piece) = block_on(text.next()).unwrap() {
            tokens.extend(piece.token);
        }
        tokens
    };
    let (told_otherwise, default) = (tokens(Some(Vec::new())), tokens(None));
    assert!(default.len() < told_otherwise.len() && told_otherwise.starts_with(&default));
    assert_eq!(told_otherwise[default.len()], 14);
}

#[test]
fn sampling_values_of_the_model_are_defaults_and_flags_win() {
    let folder = model_with(|_| {});
    let generate = ["generate", PROMPT, "--seed", "7"];
    let config = json!({ "do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.9, "min_p": 0.05,
        "repetition_penalty": 1.1, "max_new_tokens": 9, "pad_token_id": 0 });
    write(&folder, "generation_config.json", &config);
    let by_file = run(folder.path(), &generate);
    assert_eq!((&by_file["temperature"], &by_file["top_k"], &by_file["top_p"]), (&json!(0.6), &json!(20), &json!(0.9)));
    assert_eq!((&by_file["min_p"], &by_file["repetition_penalty"]), (&json!(0.05), &json!(1.1)));
    assert_eq!(by_file["generated_tokens"], 9);
    assert_eq!(by_file["from_generation_config"].as_array().unwrap().len(), 7);
    // The same text as with flags, and without the file.
    let flags = ["--temperature", "0.6", "--top-k", "20", "--top-p", "0.9", "--min-p", "0.05"];
    let more = ["--repetition-penalty", "1.1", "--max-tokens", "9"];
    let by_flags = run(&repository(MODEL), &[&generate[..], &flags, &more].concat());
    assert_eq!(by_flags["tokens"], by_file["tokens"]);
    // A flag wins over the file, for itself alone.
    let one = run(folder.path(), &[&generate[..], &["--top-k", "0", "--max-tokens", "3"]].concat());
    assert_eq!((&one["top_k"], &one["temperature"], &one["generated_tokens"]), (&json!(0), &json!(0.6), &json!(3)));
    let from: Vec<&str> = one["from_generation_config"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(!from.iter().any(|line| line.contains("top_k") || line.contains("max_new")), "{from:?}");
    // do_sample: false is greedy, until a temperature is asked for. What the file leaves open is as ever.
    write(&folder, "generation_config.json", &json!({ "do_sample": false, "temperature": 0.6 }));
    let greedy = run(folder.path(), &[&generate[..], &["--max-tokens", "9"]].concat());
    assert_eq!((&greedy["temperature"], &greedy["top_p"]), (&json!(0.0), &json!(0.95)));
    let other_seed = run(folder.path(), &["generate", PROMPT, "--seed", "8", "--max-tokens", "9"]);
    assert_eq!(greedy["tokens"], other_seed["tokens"]);
    let hot = run(folder.path(), &[&generate[..], &["--max-tokens", "9", "--temperature", "1.5"]].concat());
    assert_eq!(hot["temperature"], 1.5);
    // --stats says it in words.
    let mut stats = mamba();
    stats.args(generate).args(["--max-tokens", "2", "--stats", "--backend", "cpu", "--model"]).arg(folder.path());
    let stats = String::from_utf8_lossy(&stats.assert().success().get_output().stderr).into_owned();
    assert!(stats.contains("generation_config.json: do_sample false"), "{stats}");
}

#[test]
fn what_makes_no_sense_is_said_and_never_fatal_without_need() {
    let folder = model_with(|_| {});
    write(&folder, "generation_config.json", &json!({ "temperature": "hot", "top_p": 7, "num_beams": 4, "top_k": -1 }));
    let generate = |folder: &TempDir| {
        let mut command = mamba();
        command.args(["generate", PROMPT, "--max-tokens", "2", "--backend", "cpu", "--model"]).arg(folder.path());
        command
    };
    let said = generate(&folder).assert().success();
    let said = String::from_utf8_lossy(&said.get_output().stderr).into_owned();
    for part in
        ["generation_config.json: `temperature` is \"hot\"", "`top_p` is 7", "`num_beams` is 4", "`top_k` is -1"]
    {
        assert!(said.contains(part), "{part} in {said}");
    }
    for (file, text) in [
        ("generation_config.json", "{\"eos_token_id\": \"x\"}"),
        ("generation_config.json", "<!DOCTYPE html>"),
        ("tokenizer_config.json", "nonsense"),
    ] {
        let folder = model_with(|_| {});
        fs::write(folder.path().join(file), text).unwrap();
        let said = generate(&folder).assert().failure().code(1);
        let said = String::from_utf8_lossy(&said.get_output().stderr).into_owned();
        assert!(said.contains(file) && !said.contains("panicked"), "{file}: {said}");
    }
}

#[test]
fn inspect_model_says_what_is_stated() {
    let folder = model_with(|tokenizer| tokenizer["post_processor"] = template(true, false));
    write(&folder, "generation_config.json", &json!({ "eos_token_id": [0, 14], "temperature": 0.6, "unknown": 1 }));
    let value = run(folder.path(), &["inspect-model"]);
    assert_eq!(value["generation_config"], json!({ "eos_token_id": [0, 14], "temperature": 0.6 }));
    assert_eq!(
        (&value["end_of_text"], &value["tokens_before"], &value["tokens_after"]),
        (&json!([0, 14]), &json!([0]), &json!([]))
    );
    let words = mamba().args(["inspect-model", "--model"]).arg(folder.path()).assert().success();
    let words = String::from_utf8_lossy(&words.get_output().stdout).into_owned();
    assert!(words.contains("temperature     0.6 (generation_config.json)"), "{words}");
    assert_eq!(run(&repository(MODEL), &["inspect-model"])["generation_config"], json!({}));
}

#[test]
fn the_tokenizer_says_what_stands_around_a_text() {
    let plain = [3016, 344];
    for (before, after) in [(true, false), (false, true), (true, true)] {
        let folder = model_with(|tokenizer| tokenizer["post_processor"] = template(before, after));
        let special: Vec<u32> = [&[0][..usize::from(before)], &plain, &[14][..usize::from(after)]].concat();
        let ids = |tokens: &[u32]| tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let model = folder.path();
        for (flag, tokens) in [("true", &special[..]), ("false", &plain)] {
            let logits = run(model, &["logits", "--text", PROMPT, "--add-special-tokens", flag]);
            assert_eq!(logits["tokens"], json!(tokens));
            assert_eq!(logits["last_logits"], run(model, &["logits", "--tokens", &ids(tokens)])["last_logits"]);
            let generate =
                ["generate", PROMPT, "--max-tokens", "1", "--temperature", "0", "--add-special-tokens", flag];
            let generated = run(model, &generate);
            assert_eq!((&generated["prompt"], &generated["prompt_tokens"]), (&json!(PROMPT), &json!(tokens.len())));
            assert_eq!(generated["tokens"][0], *logits["argmax"].as_array().unwrap().last().unwrap());
            let explained = run(model, &["explain", "--text", PROMPT, "--layer", "0", "--add-special-tokens", flag]);
            assert_eq!(explained["tokens"], json!(tokens));
        }
        // By default as transformers' tokenizer(text).
        assert_eq!(run(model, &["logits", "--text", PROMPT])["tokens"], json!(special));
    }
}

#[test]
fn logits_takes_one_input() {
    for arguments in [&["logits"][..], &["logits", "--text", "a", "--tokens", "1"]] {
        mamba().args(arguments).assert().failure().code(2);
    }
    mamba().args(["logits", "--text", "", "--backend", "cpu"]).assert().failure().code(2);
}

#[test]
fn a_score_has_one_token_before_the_text() {
    let folder = model_with(|tokenizer| tokenizer["post_processor"] = template(true, false));
    let text = folder.path().join("text.txt");
    fs::write(&text, "Emma was happy. She had nothing to regret.").unwrap();
    let text = text.to_str().unwrap().to_owned();
    let score = |model: &Path, more: &[&str]| run(model, &[&["score", "--text", &text], more].concat());
    let plain = score(&repository(MODEL), &[]);
    assert_eq!(score(folder.path(), &[]), plain);
    assert_eq!(score(folder.path(), &["--bos", "0"]), plain);
    assert_eq!(score(folder.path(), &["--add-special-tokens", "false"]), plain);
    let other = score(&repository(MODEL), &["--bos", "14"]);
    assert_eq!(score(folder.path(), &["--bos", "14"]), other);
    assert_ne!(other["nll_per_token"], plain["nll_per_token"]);
    // What stands after the text is predicted too.
    let folder = model_with(|tokenizer| tokenizer["post_processor"] = template(true, true));
    let longer = score(folder.path(), &[]);
    assert_eq!(longer["tokens"].as_u64(), plain["tokens"].as_u64().map(|n| n + 1));
    mamba().args(["score", "--bos", "4096", "--backend", "cpu", "--text", &text]).assert().failure().code(2);
}

/// vocab.json and merges.txt of the embedded model's tokenizer, in the place of its tokenizer.json.
fn slow(class: &str) -> TempDir {
    let (mut vocab, mut merges) = (Value::Null, String::from("#version: 0.2\n"));
    let folder = model_with(|tokenizer| {
        vocab = tokenizer["model"]["vocab"].clone();
        for merge in tokenizer["model"]["merges"].as_array().unwrap() {
            let pair = merge.as_str().map(str::to_owned);
            let joined = || format!("{} {}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap());
            merges += &pair.unwrap_or_else(joined);
            merges.push('\n');
        }
    });
    fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    write(&folder, "vocab.json", &vocab);
    fs::write(folder.path().join("merges.txt"), merges).unwrap();
    write(&folder, "tokenizer_config.json", &json!({ "tokenizer_class": class }));
    folder
}

#[test]
fn vocabulary_and_merges_are_a_tokenizer() {
    let folder = slow("GPT2Tokenizer");
    let generate =
        ["generate", "It is a truth universally acknowledged, that", "--temperature", "0", "--max-tokens", "12"];
    let (ours, theirs) = (run(folder.path(), &generate), run(&repository(MODEL), &generate));
    assert_eq!((&ours["text"], &ours["tokens"]), (&theirs["text"], &theirs["tokens"]));
    let folder = slow("XLMTokenizer");
    let said = mamba().args(["generate", PROMPT, "--model"]).arg(folder.path()).assert().failure().code(1);
    let said = String::from_utf8_lossy(&said.get_output().stderr).into_owned();
    assert!(said.contains("tokenizer_config.json") && said.contains("XLMTokenizer"), "{said}");
}

#[test]
fn a_state_is_refused_by_another_tokenizer() {
    let folder = model_with(|_| {});
    let state = folder.path().join("text.state");
    let state = state.to_str().unwrap();
    let ours = folder.path();
    run(ours, &["generate", PROMPT, "--max-tokens", "4", "--state-out", state]);
    run(ours, &["generate", "--max-tokens", "4", "--state-in", state]);
    // The same tokenizer, written otherwise.
    let text = fs::read_to_string(ours.join("tokenizer.json")).unwrap();
    let value: Value = serde_json::from_str(&text).unwrap();
    fs::write(ours.join("tokenizer.json"), format!("{value:#}")).unwrap();
    run(ours, &["generate", "--max-tokens", "4", "--state-in", state]);
    // Two tokens changed places.
    let other = model_with(|tokenizer| {
        let vocab = tokenizer["model"]["vocab"].as_object_mut().unwrap();
        let (a, b) = (vocab["e"].clone(), vocab["t"].clone());
        vocab.insert("e".into(), b);
        vocab.insert("t".into(), a);
    });
    let refused =
        mamba().args(["generate", "--state-in", state, "--backend", "cpu", "--model"]).arg(other.path()).assert();
    let said = String::from_utf8_lossy(&refused.failure().code(1).get_output().stderr).into_owned();
    let fingerprint = |folder: &Path| {
        let tokenizer = Checkpoint::open(folder).unwrap().tokenizer().unwrap().unwrap();
        tokenizer.fingerprint().to_string()[..8].to_owned()
    };
    for part in [&fingerprint(ours), &fingerprint(other.path()), "another tokenizer", state] {
        assert!(said.contains(part), "{part}: {said}");
    }
    // A state from before the tokenizer was in it goes on.
    let checkpoint = Checkpoint::open(ours).unwrap();
    let model =
        block_on(LanguageModel::load(&checkpoint, &Backend::Cpu, ModelOptions::default(), &mut |_, _| {})).unwrap();
    let mut text = Text::new(model.session().unwrap());
    text.push(&[3016, 344]);
    block_on(text.save(&ModelId::of(&checkpoint))).unwrap().write(Path::new(state)).unwrap();
    assert_eq!(SavedState::read(Path::new(state)).unwrap().model.tokenizer, None);
    run(other.path(), &["generate", "--max-tokens", "1", "--state-in", state]);
}

#[test]
fn what_is_added_to_a_state_has_nothing_before_it() {
    let folder = model_with(|tokenizer| tokenizer["post_processor"] = template(true, false));
    let state = folder.path().join("text.state");
    let (model, state) = (folder.path(), state.to_str().unwrap());
    run(model, &["generate", PROMPT, "--max-tokens", "1", "--temperature", "0", "--state-out", state]);
    assert!(SavedState::read(Path::new(state)).unwrap().tokens.starts_with(&[0, 3016, 344]));
    let before = SavedState::read(Path::new(state)).unwrap().tokens.len();
    run(model, &["generate", " happy", "--max-tokens", "1", "--state-in", state, "--state-out", state]);
    let tokens = SavedState::read(Path::new(state)).unwrap().tokens;
    assert!(tokens.len() > before && !tokens[before..].contains(&0), "{tokens:?}");
}

/// What was asked for in words is what the library draws by.
#[test]
fn settings_of_the_model_are_the_librarys_too() {
    let folder = model_with(|_| {});
    write(&folder, "generation_config.json", &json!({ "temperature": 0.25, "top_k": 3 }));
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let options = checkpoint.generation_config().settings.clone().options(5);
    let expected = SamplingParams { temperature: 0.25, top_k: 3, seed: 5, ..Default::default() };
    assert_eq!(options.params, expected);
}

/// The library's example in the README is the one that is built and run.
#[test]
fn the_readme_shows_the_example() {
    let example = fs::read_to_string(repository("examples/generate.rs")).unwrap();
    let code: Vec<&str> = example.lines().filter(|line| !line.starts_with("//!")).collect();
    let code = code.join("\n");
    assert!(code.lines().count() > 15);
    assert!(fs::read_to_string(repository("README.md")).unwrap().contains(code.trim()));
}

/// What the library would notice by a panic is said in words, and inspect-model goes on without.
#[test]
fn a_template_that_cannot_be_applied_is_said() {
    for (change, word) in [
        (json!({ "SpecialToken": { "id": "<nowhere>", "type_id": 0 } }), "<nowhere>"),
        (json!({ "Sequence": { "id": "B", "type_id": 0 } }), "\"B\""),
    ] {
        let folder = model_with(|tokenizer| {
            let mut template = template(true, false);
            template["single"].as_array_mut().unwrap().push(change.clone());
            tokenizer["post_processor"] = template;
        });
        let failed =
            mamba().args(["generate", PROMPT, "--backend", "cpu", "--model"]).arg(folder.path()).assert().code(1);
        let said = String::from_utf8_lossy(&failed.get_output().stderr).into_owned();
        assert!(said.contains("post_processor") && said.contains(word), "{said}");
        assert_eq!(run(folder.path(), &["inspect-model"])["tokenizer"], json!(false));
    }
}

#[test]
fn merges_are_never_left_out_by_chance() {
    let folder = model_with(|tokenizer| tokenizer["model"]["dropout"] = json!(0.5));
    let tokens = |folder: &Path| run(folder, &["logits", "--text", "universally acknowledged"])["tokens"].clone();
    let plain = model_with(|_| {});
    assert_eq!(tokens(folder.path()), tokens(plain.path()));
}

#[test]
fn a_byte_order_mark_of_an_argument_is_no_text() {
    let folder = model_with(|_| {});
    let tokens = |text: &str| run(folder.path(), &["logits", "--text", text])["tokens"].clone();
    assert_eq!(tokens("\u{feff}Emma was"), tokens("Emma was"));
    assert_ne!(tokens("Emma\u{feff} was"), tokens("Emma was"));
    let generated = |text: &str| run(folder.path(), &["generate", text, "--max-tokens", "2", "--temperature", "0"]);
    assert_eq!(generated("\u{feff}Emma was")["tokens"], generated("Emma was")["tokens"]);
}

#[test]
fn a_negative_number_is_refused_as_one() {
    for flag in ["--seed", "--top-k"] {
        let failed = mamba().args(["generate", "a", flag, "-1"]).assert().code(2);
        let said = String::from_utf8_lossy(&failed.get_output().stderr).into_owned();
        assert!(said.contains(flag) && said.contains("invalid value '-1'"), "{said}");
    }
}

/// A state comes through a pipe as well as out of one.
#[cfg(unix)]
#[test]
fn a_state_is_read_from_a_fifo() {
    let folder = model_with(|_| {});
    let (state, fifo) = (folder.path().join("text.state"), folder.path().join("fifo"));
    run(folder.path(), &["generate", PROMPT, "--max-tokens", "4", "--state-out", state.to_str().unwrap()]);
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let bytes = fs::read(&state).unwrap();
    let (to, from) = (fifo.clone(), fifo.to_str().unwrap());
    let writer = std::thread::spawn(move || fs::write(to, bytes).unwrap());
    let on =
        |from: &str| run(folder.path(), &["generate", "--max-tokens", "4", "--temperature", "0", "--state-in", from]);
    assert_eq!(on(from)["tokens"], on(state.to_str().unwrap())["tokens"]);
    writer.join().unwrap();
}
