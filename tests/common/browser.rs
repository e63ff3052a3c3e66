//! A page as a browser understands it.

use std::path::Path;
use std::process::Command;

/// As the web page's own tests choose it.
fn browser() -> String {
    let known = ["/usr/bin/chromium", "/usr/bin/google-chrome"].into_iter().find(|path| Path::new(path).exists());
    std::env::var("CHROMIUM").ok().or(known.map(str::to_owned)).expect("no Chromium: run scripts/setup-tests.sh")
}

/// A file's document after its scripts ran, and what the browser logged.
pub fn dom(page: &Path) -> (String, String) {
    let mut chromium = Command::new(browser());
    chromium.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--virtual-time-budget=5000",
    ]);
    let output =
        chromium.arg("--dump-dom").arg(format!("file://{}", page.display())).output().expect("Chromium starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}
