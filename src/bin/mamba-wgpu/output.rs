//! Stdout for results, stderr for everything else: progress, warnings, what was picked.

use std::io::{self, Write};

use indicatif::{ProgressBar, ProgressStyle};
use tracing_subscriber::EnvFilter;

/// Prints one JSON object on stdout.
pub fn print_json(value: &impl serde::Serialize) -> io::Result<()> {
    print_line(&serde_json::to_string(value)?)
}

/// Prints a text and a newline on stdout (`println!` panics when stdout is closed).
pub fn print_line(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.write_all(b"\n")?;
    stdout.flush()
}

/// Bytes for people.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..=0xfffff => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1048576.0),
    }
}

/// An f32 as its shortest decimal (1e-5), not with the digits that it has as an f64.
pub fn short(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

/// Shows the library's warnings on stderr; `RUST_LOG` asks for more.
pub fn show_warnings() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("off,mamba_wgpu=warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).without_time().with_target(false).init();
}

/// Mesa's device-select layer asks the desktop for its preferred GPU, and prints "error: XDG_RUNTIME_DIR is invalid"
/// where there is no desktop. Adapters are ranked here anyway, so it is switched off, unless the user steers it.
pub fn quieten_vulkan() {
    if std::env::var_os("MESA_VK_DEVICE_SELECT").is_none() && std::env::var_os("NODEVICE_SELECT").is_none() {
        // No other thread runs yet that could read the environment.
        std::env::set_var("NODEVICE_SELECT", "1");
    }
}

/// A progress bar on stderr, there only while something is going on and only where stderr is a terminal.
pub struct Progress(ProgressBar);

impl Progress {
    /// Counts bytes.
    pub fn bytes(what: &'static str) -> Self {
        Self::new(what, "{msg} {bar:30} {bytes}/{total_bytes} {binary_bytes_per_sec}")
    }

    /// Counts tokens.
    pub fn tokens(what: &'static str) -> Self {
        Self::new(what, "{msg} {bar:30} {human_pos}/{human_len} tokens, {eta} left")
    }

    /// Counts things.
    pub fn count(what: &'static str) -> Self {
        Self::new(what, "{msg} {bar:30} {human_pos}/{human_len}")
    }

    /// Changes what stands before the bar.
    pub fn say(&self, what: String) {
        self.0.set_message(what);
    }

    /// Whether there is a bar to be seen.
    pub fn shown(&self) -> bool {
        !self.0.is_hidden()
    }

    /// A line on stderr that stays, above the bar.
    pub fn println(&self, line: &str) {
        match self.shown() {
            true => self.0.println(line),
            false => eprintln!("{line}"),
        }
    }

    fn new(what: &'static str, template: &str) -> Self {
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        // Draws to stderr, and to nowhere when that is no terminal.
        Self(ProgressBar::new(0).with_style(style).with_message(what))
    }

    /// So much of `total` is done.
    pub fn set(&self, done: u64, total: u64) {
        self.0.set_length(total);
        self.0.set_position(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
