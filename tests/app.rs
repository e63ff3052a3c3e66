//! `mamba-wgpu app`: the real window, on a virtual display (Xvfb) and whatever adapter there is (in CI lavapipe). Its logic is
//! tested without a window, beside it (src/bin/mamba-wgpu/app).

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::json;

const PROMPT: &str = "It is a truth universally acknowledged, that";

/// A display of its own, gone with it.
struct Display {
    server: Child,
    name: String,
}

impl Display {
    fn new() -> Self {
        let mut server = Command::new("Xvfb")
            .args(["-displayfd", "1", "-screen", "0", "1400x1000x24", "-nolisten", "tcp"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("Xvfb is needed: scripts/setup-tests.sh installs it");
        // It chooses a free number, and tells when it is ready.
        let mut line = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(!line.trim().is_empty(), "Xvfb ended at once");
        Self { server, name: format!(":{}", line.trim()) }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn program() -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("mamba-wgpu"));
    command.env("RUST_BACKTRACE", "1").env_remove("WAYLAND_DISPLAY").env_remove("RUST_LOG");
    command
}

fn app(display: &Display, folder: &Path, arguments: &[&str]) -> Output {
    program()
        .arg("app")
        .arg("--settings")
        .arg(folder.join("app.json"))
        .args(arguments)
        .env("DISPLAY", &display.name)
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Greedy and short; the check of the device is a test of its own (tests/selftest.rs).
fn settings(folder: &Path, device: &serde_json::Value) {
    let settings = json!({ "sampling": { "temperature": 0.0, "max_tokens": 24 }, "check": false, "device": device });
    std::fs::write(folder.join("app.json"), settings.to_string()).unwrap();
}

/// Width, height, and how many different colours.
fn picture(path: &Path) -> (u32, u32, usize) {
    let decoder = png::Decoder::new(BufReader::new(File::open(path).unwrap()));
    let mut reader = decoder.read_info().unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut bytes).unwrap();
    assert_eq!((info.color_type, info.bit_depth), (png::ColorType::Rgb, png::BitDepth::Eight));
    let colours: std::collections::HashSet<&[u8]> = bytes[..info.buffer_size()].chunks_exact(3).collect();
    (info.width, info.height, colours.len())
}

/// One test: the windows come one after the other, each on a software GPU.
#[test]
fn the_window_writes_what_generate_writes_and_shows_it() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let display = Display::new();
    let adapters = program().args(["adapters", "--json"]).output().unwrap();
    let adapters: serde_json::Value = serde_json::from_slice(&adapters.stdout).unwrap();
    let best = &adapters["adapters"][0];
    assert!(best.is_object(), "the window's test needs an adapter (Mesa's lavapipe is one)");
    // By name, so that a software one is taken too: the window and the model share its device.
    settings(folder, &json!({ "adapter": { "name": best["name"], "backend": best["backend"] } }));
    let arguments = ["generate", PROMPT, "--temperature", "0", "--max-tokens", "24", "--adapter", "0"];
    let expected = program().args(arguments).output().unwrap();
    assert!(expected.status.success(), "{}", stderr(&expected));

    // Two themes, two sizes.
    let light = folder.join("light.png");
    let output = app(
        &display,
        folder,
        &["--prompt", PROMPT, "--generate", "--theme", "light", "--screenshot", light.to_str().unwrap()],
    );
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, String::from_utf8(expected.stdout).unwrap());
    assert!(text.len() > PROMPT.len() + 24, "{text:?}");
    let (width, height, colours) = picture(&light);
    assert!(width >= 800 && height >= 600 && colours > 50, "{width} x {height}, {colours} colours");

    // What was chosen is remembered: the prompt and the colours now, and the sampling as it was.
    let kept: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("app.json")).unwrap()).expect("settings are JSON");
    assert_eq!((&kept["theme"], &kept["prompt"]), (&json!("light"), &json!(PROMPT)));
    assert_eq!(kept["sampling"]["max_tokens"], json!(24));

    // Where nothing is chosen, what is fast: it writes the same.
    settings(folder, &json!("auto"));
    let picture_of_auto = folder.join("auto.png");
    let auto =
        app(&display, folder, &["--prompt", PROMPT, "--generate", "--screenshot", picture_of_auto.to_str().unwrap()]);
    assert!(auto.status.success(), "{}", stderr(&auto));
    assert_eq!(String::from_utf8(auto.stdout).unwrap(), text);

    let dark = folder.join("dark.png");
    let output = app(
        &display,
        folder,
        &["--theme", "dark", "--zoom", "1.5", "--tab", "device", "--screenshot", dark.to_str().unwrap()],
    );
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(output.stdout, b"\n", "nothing was to be written");
    assert!(picture(&dark).2 > 50);
    assert_ne!(std::fs::read(&light).unwrap(), std::fs::read(&dark).unwrap());

    // A model that is not there: in words, with a code.
    let output = app(&display, folder, &["--model", "/no/such/model", "--screenshot", "/dev/null"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("/no/such/model"), "{}", stderr(&output));
}

#[test]
fn without_a_display_it_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let output =
        program().args(["app", "--settings"]).arg(folder.path().join("s.json")).env_remove("DISPLAY").output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let message = stderr(&output);
    assert!(message.contains("the window could not be opened") && !message.contains("panicked"), "{message}");
    let output = program().args(["app", "--zoom", "9"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}
