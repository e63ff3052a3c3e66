//! What the program writes: where to, over what, and what is left when it is refused, fails, or is ended from outside.
#![cfg(unix)]

#[path = "common/signals.rs"]
mod signals;

use mamba_wgpu::files::lock;
use mamba_wgpu::model::SavedState;
use serde_json::Value;
use signals::{hangup, signal};
use std::fs;
use std::io::Read;
use std::os::unix::fs::{symlink, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

const PROGRAM: &str = env!("CARGO_BIN_EXE_mamba-wgpu");

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).env("NO_COLOR", "1").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A short text.
fn generate(more: &[&str]) -> Output {
    let short = ["generate", "Emma", "--max-tokens", "3", "--backend", "cpu", "--seed", "1"];
    program(&[&short, more].concat()).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Exit code, and all of these words on stderr.
fn expect(output: &Output, code: i32, words: &[&str]) {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

fn fifo(folder: &Path) -> PathBuf {
    let path = folder.join("fifo");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}

/// The program by a shell: what it writes to files ends after some kilobytes, as on a full disk.
fn on_a_full_disk(arguments: &[&str]) -> Output {
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; ulimit -f 4; exec \"$@\"", "sh", PROGRAM]).args(arguments);
    command.stdin(Stdio::null()).output().unwrap()
}

#[test]
fn a_state_goes_where_it_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("there")).unwrap();
    symlink("there/target", at("link")).unwrap();
    // Where nothing is; what the link leads to, which keeps its permissions.
    expect(&generate(&["--state-out", text(&at("link"))]), 0, &[]);
    fs::set_permissions(at("there/target"), fs::Permissions::from_mode(0o640)).unwrap();
    expect(&generate(&["--state-out", text(&at("link"))]), 0, &[]);
    assert!(fs::symlink_metadata(at("link")).unwrap().is_symlink());
    assert_eq!(fs::metadata(at("there/target")).unwrap().permissions().mode() & 0o777, 0o640);
    let state = fs::read(at("there/target")).unwrap();
    SavedState::from_bytes("target", &state).unwrap();
    assert_eq!(names(&at("there")), ["target"]);

    // A FIFO that is read; a link to standard output.
    let pipe = fifo(folder.path());
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || fs::read(pipe).unwrap()
    });
    expect(&generate(&["--state-out", text(&pipe)]), 0, &[]);
    assert!(reader.join().unwrap() == state);
    assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
    symlink("/dev/stdout", at("out")).unwrap();
    for place in ["/dev/stdout", text(&at("out"))] {
        let output = generate(&["--no-echo", "--state-out", place]);
        expect(&output, 0, &[]);
        assert!(output.stdout.ends_with(&state), "{} bytes", output.stdout.len());
    }
    // Standard output that is a file: the text, then the state, one after the other.
    let file = fs::File::create(at("both")).unwrap();
    let both = program(&["generate", "Emma", "--max-tokens", "3", "--backend", "cpu", "--seed", "1"])
        .args(["--state-out", "/dev/stdout"])
        .stdout(file)
        .output()
        .unwrap();
    expect(&both, 0, &[]);
    let both = fs::read(at("both")).unwrap();
    assert!(both.starts_with(b"Emma") && both.ends_with(&state));
    expect(&generate(&["--state-out", "/dev/null"]), 0, &[]);
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
}

#[test]
fn what_cannot_be_written_is_refused_before_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("thesis"), "all of it").unwrap();
    symlink("thesis", at("link")).unwrap();
    fs::create_dir(at("folder")).unwrap();
    let pipe = fifo(folder.path());
    let input = at("input.txt");
    fs::write(&input, "Emma").unwrap();
    let text_to_explain = ["explain", "--backend", "cpu", "--file", text(&input), "--html"];
    let commands: [&[&str]; 3] = [
        &["generate", "Emma", "--max-tokens", "3", "--backend", "cpu", "--state-out"],
        &text_to_explain,
        // No work, since there is no such adapter: but the place comes first.
        &["bench", "scan", "--adapter", "no such one", "--json"],
    ];
    for command in commands {
        for (place, code, words) in [
            ("thesis", 2, "--force"),
            ("link", 2, "--force"),
            ("fifo", 1, "nobody reads"),
            ("folder", 1, "it is a folder"),
            ("no/such/folder", 1, "No such file"),
        ] {
            let place = at(place);
            let output = program(command).arg(&place).output().unwrap();
            expect(&output, code, &[words, command[command.len() - 1], text(&place)]);
            assert!(output.stdout.is_empty());
        }
    }
    assert_eq!(fs::read_to_string(at("thesis")).unwrap(), "all of it");
    assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
    assert_eq!(names(folder.path()), ["fifo", "folder", "input.txt", "link", "thesis"]);
    // Who says so replaces it; what is the program's own needs no force.
    for command in &commands[..2] {
        fs::write(at("thesis"), "all of it").unwrap();
        expect(&program(command).arg(at("link")).arg("--force").output().unwrap(), 0, &[]);
        expect(&program(command).arg(at("link")).output().unwrap(), 0, &[]);
        assert!(fs::read(at("thesis")).unwrap().len() > 1000);
    }
    assert!(fs::symlink_metadata(at("link")).unwrap().is_symlink());
}

/// A report, as `bench --json` writes them.
fn record() -> PathBuf {
    let records = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/records");
    let mut found: Vec<PathBuf> = fs::read_dir(records)
        .unwrap()
        .filter_map(|gpu| fs::read_dir(gpu.unwrap().path()).ok())
        .flat_map(|files| files.map(|file| file.unwrap().path()))
        .filter(|path| path.extension().is_some_and(|end| end == "json"))
        .collect();
    found.sort();
    found.swap_remove(0)
}

#[test]
fn reports_replace_reports_only() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::copy(record(), at("report.json")).unwrap();
    fs::set_permissions(at("report.json"), fs::Permissions::from_mode(0o644)).unwrap();
    let bench =
        |place: &Path| program(&["bench", "scan", "--adapter", "no such one", "--json"]).arg(place).output().unwrap();
    // Not refused for the file, but for the adapter.
    let output = bench(&at("report.json"));
    assert!(output.status.code() != Some(0) && stderr(&output).contains("no such one"), "{}", stderr(&output));
    fs::write(at("other.json"), "{\"rows\": []}").unwrap();
    expect(&bench(&at("other.json")), 2, &["--force", "other.json"]);

    let report = |more: &[&str]| {
        let (page, pictures) = (at("page.html"), at("pictures"));
        program(&["bench", "report", text(&at("report.json")), "--html", text(&page), "--svg", text(&pictures)])
            .args(["--png", text(&pictures)])
            .args(more)
            .output()
            .unwrap()
    };
    expect(&report(&[]), 0, &[]);
    let all = names(&at("pictures"));
    assert!(all.len() > 2, "{all:?}");
    expect(&report(&[]), 0, &[]); // all of them its own
    let own = fs::read(at("page.html")).unwrap();
    fs::write(at("page.html"), "<!doctype html>mine").unwrap();
    expect(&report(&[]), 2, &["--force", "page.html"]);
    for name in [all.last().unwrap(), all.iter().find(|name| name.ends_with(".png")).unwrap()] {
        let picture = at("pictures").join(name);
        let before = fs::read(&picture).unwrap();
        fs::write(&picture, "drawn by hand").unwrap();
        fs::write(at("page.html"), "").unwrap();
        expect(&report(&[]), 2, &["--force", name]);
        assert_eq!(fs::read_to_string(&picture).unwrap(), "drawn by hand");
        assert!(fs::read(at("page.html")).unwrap().is_empty(), "none is written unless all can be");
        expect(&report(&["--force"]), 0, &[]);
        assert!(fs::read(&picture).unwrap() == before && fs::read(at("page.html")).unwrap() == own);
    }
}

#[test]
fn what_was_made_is_printed_when_it_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("state");
    let arguments =
        ["generate", "Emma", "--max-tokens", "3", "--backend", "cpu", "--json", "--state-out", text(&place)];
    let output = on_a_full_disk(&arguments);
    expect(&output, 1, &["the state is lost", text(&place), "File too large"]);
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed["generated_tokens"], 3);
    assert!(names(folder.path()).is_empty(), "nor half of it");
    // The one from before stays.
    expect(&generate(&["--state-out", text(&place)]), 0, &[]);
    let before = fs::read(&place).unwrap();
    expect(&on_a_full_disk(&arguments), 1, &["the state is lost"]);
    assert!(fs::read(&place).unwrap() == before);
    let page = folder.path().join("page");
    let explain = ["explain", "--text", "Emma", "--backend", "cpu", "--layer", "0", "--json", "--html", text(&page)];
    let output = on_a_full_disk(&explain);
    expect(&output, 1, &["the page is lost", text(&page)]);
    assert!(serde_json::from_slice::<Value>(&output.stdout).unwrap()["layers"].is_array());
    assert_eq!(names(folder.path()), ["state"]);
    #[cfg(target_os = "linux")]
    {
        let output = generate(&["--json", "--state-out", "/dev/full"]);
        expect(&output, 1, &["the state is lost", "/dev/full: No space left"]);
        assert!(serde_json::from_slice::<Value>(&output.stdout).is_ok());
    }
}

mod ended {
    use super::*;

    /// A text of a million tokens, of which the first are there.
    fn endless(shell: &str, state: &Path) -> Child {
        let endless =
            ["generate", "Emma", "--max-tokens", "1000000", "--ignore-eos", "--backend", "cpu", "--seed", "3"];
        let mut child = Command::new("sh")
            .args(["-c", &format!("{shell} exec \"$@\""), "sh", PROGRAM])
            .args(endless)
            .args(["--state-out", text(state)])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 12]).unwrap();
        child
    }

    #[test]
    fn a_text_that_a_signal_ends_is_saved() {
        let folder = tempfile::tempdir().unwrap();
        for (name, code) in [("-INT", 130), ("-TERM", 143), hangup()] {
            let state = folder.path().join(code.to_string());
            let child = endless("", &state);
            signal(&child, name);
            // A closing terminal and `timeout` send theirs twice.
            signal(&child, name);
            let output = child.wait_with_output().unwrap();
            expect(&output, code, &[]);
            assert!(SavedState::read(&state).unwrap().tokens.len() > 1);
        }
    }

    #[test]
    fn what_nohup_ignores_stays_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let mut child = endless("trap '' HUP;", &state);
        signal(&child, "-HUP");
        // Far more than it writes before it looks at a signal.
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 400]).unwrap();
        signal(&child, "-TERM");
        expect(&child.wait_with_output().unwrap(), 143, &[]);
        SavedState::read(&state).unwrap();
    }

    #[test]
    fn a_text_that_nobody_reads_any_more_is_saved() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let mut child = endless("", &state);
        drop(child.stdout.take());
        expect(&child.wait_with_output().unwrap(), 0, &[]);
        assert!(SavedState::read(&state).unwrap().tokens.len() > 1);
        // Nor is a message that nobody reads an error.
        let mut child =
            program(&["generate", "Emma", "--max-tokens", "3", "--backend", "cpu", "--stats"]).spawn().unwrap();
        drop(child.stderr.take());
        assert!(child.wait_with_output().unwrap().status.success());
    }

    /// Commands that have nothing to save end at once.
    #[test]
    fn other_commands_end_too() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = fifo(folder.path());
        for (command, (name, code)) in [
            (&["score", "--backend", "cpu", "--text"][..], ("-TERM", 143)),
            (&["logits", "--backend", "cpu", "--tokens-file"], hangup()),
            (&["explain", "--backend", "cpu", "--file"], ("-INT", 130)),
        ] {
            let child = program(command).arg(&pipe).spawn().unwrap();
            // Opened when the program reads it, which it does for ever.
            let writer = fs::OpenOptions::new().write(true).open(&pipe).unwrap();
            signal(&child, name);
            expect(&child.wait_with_output().unwrap(), code, &[]);
            drop(writer);
        }
    }

    #[test]
    fn a_quantised_model_is_whole_or_nothing_and_one_processs() {
        let folder = tempfile::tempdir().unwrap();
        let (model, out) = (folder.path().join("model"), folder.path().join("out"));
        let spec = mamba_wgpu::model::synthetic::Spec {
            tied: false,
            ..mamba_wgpu::model::synthetic::Spec::new(1, 256, 50280)
        };
        fs::create_dir(&model).unwrap();
        fs::write(model.join("config.json"), spec.config_json()).unwrap();
        let mut bytes = Vec::new();
        spec.write_safetensors(&mut bytes, &mut |_, _| {}).unwrap();
        fs::write(model.join("model.safetensors"), bytes).unwrap();
        let quantize = || program(&["quantize", text(&model), text(&out), "--to", "q4"]);
        let begun = || {
            let child = quantize().spawn().unwrap();
            while !out.exists() || !names(&out).iter().any(|name| name.ends_with(".unfinished")) {
                std::thread::yield_now();
            }
            child
        };
        let child = begun();
        signal(&child, "-TERM");
        expect(&child.wait_with_output().unwrap(), 143, &["cancelled"]);
        assert!(!out.exists());
        let mut child = begun();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(names(&out).iter().any(|name| name.ends_with(".unfinished")), "{:?}", names(&out));
        let held = lock(&out.join(".lock")).unwrap().unwrap();
        expect(&quantize().output().unwrap(), 1, &[&format!("process {}", std::process::id())]);
        drop(held);
        expect(&quantize().output().unwrap(), 0, &[]);
        assert_eq!(names(&out), ["config.json", "model.safetensors"]);
    }
}
