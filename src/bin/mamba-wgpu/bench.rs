//! `mamba-wgpu bench`: how fast this GPU is, and how near that is to what it could be.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::ValueEnum;
use mamba_wgpu::bench::{self, Flag, Options, Report, Shapes, Suite};
use mamba_wgpu::files::Kind;

use crate::bench_cells::{cells, HEADINGS, WORDS};
use crate::bench_compare;
use crate::bench_report;
use crate::common::{at_least_one, GpuArgs};
use crate::errors::misuse;
use crate::exit::ExitCode;
use crate::gpu_clock;
use crate::output::{lost, place, print_line, Progress};
use crate::signals;

/// Measure the kernels and whole models of published sizes on a GPU
///
/// Models have synthetic weights: nothing is downloaded. Every rate is also given as a share of what a copy or
/// multiply-adds in registers reach in the same run. The GPU is kept busy before each row until its clock stands still, and what was
/// measured at a lower clock is measured again, or flagged. Ctrl-C ends the run and keeps what was measured.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// What to measure, in this order
    #[arg(value_enum, default_values_t = [What::All])]
    what: Vec<What>,
    /// Write everything to this file, as one JSON object
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Replace a file at --json that is no report
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    gpu: GpuArgs,
    /// Models for prefill and decode, and of Mamba-2 for scan [default: all of 130m, 370m, 790m, 1.4b, 2.8b]; there are also mamba2-130m, mamba2-370m,
    /// mamba2-780m, mamba2-1.3b, mamba2-2.7b, granite-4.0-h-350m, granite-4.0-h-1b, granite-4.0-h-tiny, falcon-h1-0.5b
    /// and llama-1b
    #[arg(long, value_name = "SIZE,...", value_delimiter = ',')]
    sizes: Vec<String>,
    /// How many texts decode writes at once, a row for each number: 1,8,64 [default: 1]
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = at_least_one)]
    batch: Vec<usize>,
    /// About how long it may take; what would take longer is left out
    #[arg(long, value_name = "SECONDS", default_value = "120", value_parser = seconds, allow_negative_numbers = true)]
    time_limit: Duration,
    /// How many tokens of a prompt go through a model together
    #[arg(long, value_name = "N", default_value = "8192", value_parser = at_least_one)]
    chunk: usize,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Report(bench_report::Args),
    Compare(bench_compare::Args),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// The selective scan's three rungs
    Scan,
    /// Linear layers
    Matmul,
    /// A token from the logits
    Sampling,
    /// Reading prompts
    Prefill,
    /// Writing tokens
    Decode,
    /// The kernels that only training needs
    Backward,
    /// Whole steps of training
    Training,
    All,
}

impl What {
    fn suites(self) -> Vec<Suite> {
        vec![match self {
            What::Scan => Suite::Scan,
            What::Matmul => Suite::Matmul,
            What::Sampling => Suite::Sampling,
            What::Prefill => Suite::Prefill,
            What::Decode => Suite::Decode,
            What::Backward => Suite::Backward,
            What::Training => Suite::Training,
            What::All => return Suite::ALL.to_vec(),
        }]
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|error| format!("{error}"))?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// What --json writes.
pub const REPORT: Kind =
    Kind { name: "report of `mamba-wgpu bench`", is: |bytes| serde_json::from_slice::<Report>(bytes).is_ok() };

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match &args.command {
        Some(Command::Report(args)) => return bench_report::run(args),
        Some(Command::Compare(args)) => return bench_compare::run(args),
        None => {}
    }
    args.gpu.check("there is no GPU to measure")?;
    let cancel = Arc::new(AtomicBool::new(false));
    let mut options = args.options(cancel.clone())?;
    let json = args.json.as_deref().map(|path| place("json", path, REPORT, args.force)).transpose()?;
    let gpu = args.gpu.open().await?;
    options.clock_mhz = gpu_clock::reader(gpu.adapter_summary());
    signals::ask(&cancel);
    let bar = Progress::count("measuring");
    let report = bench::run(&gpu, &options, &mut |now| {
        bar.say(format!("{} {} {}", now.row.suite, now.row.name, now.row.variant));
        bar.set(now.done as u64, now.total as u64);
    })
    .await;
    drop(bar);
    let text = serde_json::to_string_pretty(&report)? + "\n";
    let written = json.as_ref().map_or(Ok(()), |json| json.write(text.as_bytes()));
    // On standard output the object stands alone.
    let printed = match json.is_some_and(|json| json.is_stdout()) {
        true => Ok(()),
        false => print_line(&in_words(&report)),
    };
    written.map_err(lost("json", "the report"))?;
    printed?;
    Ok(if report.interrupted { signals::exit_code() } else { ExitCode::SUCCESS })
}

impl Args {
    fn options(&self, cancel: Arc<AtomicBool>) -> anyhow::Result<Options> {
        let mut shapes = Shapes::default();
        if !self.batch.is_empty() {
            shapes.batch.clone_from(&self.batch);
        }
        if !self.sizes.is_empty() {
            let known: Vec<&str> = Shapes::MODELS.into_iter().chain(Shapes::MAMBA2).chain(Shapes::HYBRIDS).collect();
            if let Some(unknown) = self.sizes.iter().find(|size| !known.contains(&size.as_str())) {
                let known = known.join(", ");
                return Err(misuse(format!("--sizes {unknown}: no such model; there are {known}")));
            }
            shapes.models = Shapes::models_of(&self.sizes);
        }
        Ok(Options {
            suites: self.what.iter().flat_map(|what| what.suites()).collect(),
            shapes,
            time_limit: self.time_limit,
            chunk: self.chunk,
            date: utc(SystemTime::now()),
            cancel,
            host: Some(gpu_clock::host()),
            ..Options::default()
        })
    }
}

/// "2026-11-24T12:00:00Z". The date from the days since 1970, by Howard Hinnant's `civil_from_days`.
pub fn utc(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    // Days since 0000-03-01: leap days then come last in their year, and eras of 400 years are all alike.
    let days = seconds / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153; // 0 is March
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let (h, m, s) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}Z", 400 * era + year + carry)
}

/// The report as a table, with what it was measured on above it.
fn in_words(report: &Report) -> String {
    let device = &report.device;
    let adapter = &device.adapter;
    let features = if device.features.is_empty() { "none".into() } else { device.features.join(", ") };
    let host = report.host.as_ref().map_or_else(String::new, |host| {
        format!("\non {}, {}", host.cpu.as_deref().unwrap_or("an unknown processor"), host.system)
    });
    let mut text = format!(
        "{} ({}), driver {} {}{host}\nfeatures in use: {features}; buffers up to {} MiB, bindings up to {} MiB\n\
         mamba-wgpu {}, commit {}, {}\n",
        adapter.name,
        device.backend,
        adapter.driver,
        adapter.driver_info,
        device.limits.max_buffer_size >> 20,
        device.limits.max_storage_buffer_binding_size >> 20,
        report.version,
        report.commit,
        report.date,
    );
    let mut lines = vec![HEADINGS.map(str::to_owned).to_vec()];
    lines.extend(report.rows.iter().map(cells));
    let widths: Vec<usize> = (0..HEADINGS.len())
        .map(|i| lines.iter().filter_map(|l| l.get(i)).map(|c| c.chars().count()).max().unwrap_or(0))
        .collect();
    let mut suite = None;
    for (i, line) in lines.iter().enumerate() {
        let row = i.checked_sub(1).and_then(|i| report.rows.get(i));
        if row.map(|row| row.suite) != suite {
            suite = row.map(|row| row.suite);
            text.push('\n');
        }
        let mut out = String::new();
        for (column, cell) in line.iter().enumerate() {
            let width = widths[column];
            // Words to the left, numbers to the right.
            let _ = match column {
                0..WORDS => write!(out, "{cell:<width$}  "),
                _ => write!(out, "{cell:>width$}  "),
            };
        }
        if let Some(reason) = row.and_then(|row| row.skipped.as_ref()) {
            let _ = write!(out, "skipped: {reason}");
        }
        let _ = write!(text, "\n{}", out.trim_end());
    }
    let notes: Vec<String> = NOTES
        .iter()
        .filter(|(flag, _)| report.rows.iter().any(|row| row.flags().contains(flag)))
        .map(|(flag, says)| format!("\n{flag}: {says}"))
        .collect();
    if !notes.is_empty() {
        let _ = write!(text, "\n{}", notes.concat());
    }
    if report.interrupted {
        text.push_str("\n\ninterrupted: later rows are missing");
    }
    text
}

/// What the flags mean.
const NOTES: [(Flag, &str); 4] = [
    (Flag::FewSamples, "fewer than three samples, since the row's time was up: give it more with --time-limit"),
    (
        Flag::Unsteady,
        "the reference kernel stayed more than 5 % slower than at its best: the clock was low, or something else ran",
    ),
    (Flag::AboveCopy, "faster than a copy from memory: what it reads lies in a cache"),
    (Flag::AboveFma, "faster than multiply-adds in f32: by matrix units"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_in_and_around_leap_years() {
        let at = |seconds| utc(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(at(951_868_800), "2000-03-01T00:00:00Z");
        assert_eq!(at(1_735_689_599), "2024-12-31T23:59:59Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00Z");
    }
}
