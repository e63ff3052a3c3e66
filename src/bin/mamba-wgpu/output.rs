//! Stdout for results, stderr for everything else: progress, warnings, what was picked.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use anyhow::anyhow;
use indicatif::{ProgressBar, ProgressStyle};
use mamba_wgpu::files::{FileError, Kind, Output};
use tracing::{Event, Level};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::EnvFilter;

use crate::errors::misuse;

/// Prints one JSON object on stdout.
pub fn print_json(value: &impl serde::Serialize) -> io::Result<()> {
    print_line(&serde_json::to_string(value)?)
}

/// Prints a text and a newline on stdout (`println!` panics when stdout is closed).
pub fn print_line(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    let mut print = || {
        stdout.write_all(text.as_bytes())?;
        stdout.write_all(b"\n")?;
        stdout.flush()
    };
    print().map_err(stdout_error)
}

/// Says which file it was.
pub fn stdout_error(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("standard output: {error}"))
}

/// Tries the place that a flag names, before there is anything to write.
pub fn place(flag: &str, path: &Path, kind: Kind, force: bool) -> anyhow::Result<Output> {
    Output::new(path, kind, force).map_err(|error| match error {
        FileError::Taken { .. } => misuse(format!("--{flag} {error} (--force writes there all the same)")),
        error => anyhow!("--{flag} {error}"),
    })
}

/// Refuses outputs, each with its flag, that would be mixed: two in one place, or one on standard output, where `--json` prints its
/// object.
pub fn apart<'a>(json: bool, outputs: impl IntoIterator<Item = (&'a str, &'a Output)>) -> anyhow::Result<()> {
    let mut before: Vec<(&str, &Output)> = Vec::new();
    for (flag, output) in outputs {
        let path = output.path().display();
        if json && output.is_stdout() {
            return Err(misuse(format!("--{flag} {path}: --json prints its object there: give --{flag} a file")));
        }
        if let Some((other, _)) = before.iter().find(|(_, other)| other.collides(output)) {
            return Err(misuse(format!("--{other} and --{flag}: both would write to {path}")));
        }
        before.push((flag, output));
    }
    Ok(())
}

/// What to say of something that was made and could not be written.
pub fn lost(flag: &str, what: &str) -> impl FnOnce(FileError) -> anyhow::Error {
    let what = format!("--{flag}: {what} is lost");
    move |error| anyhow::Error::new(error).context(what)
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
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .log_internal_errors(false)
        .event_format(OneStyle)
        .init();
}

/// "warning: what is odd", as all that the program itself says.
struct OneStyle;

impl<S, N> FormatEvent<S, N> for OneStyle
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        write!(out, "{level}: ")?;
        context.field_format().format_fields(out.by_ref(), event)?;
        writeln!(out)
    }
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
