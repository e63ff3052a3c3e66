//! `mamba-wgpu bench compare`: which rows of two reports differ.

use std::path::PathBuf;

use anyhow::Context;
use mamba_wgpu::bench::compare::{differences, Difference};
use mamba_wgpu::bench::{Report, Row, Suite};

use crate::bench_cells::time;
use crate::bench_report;
use crate::exit::ExitCode;
use crate::output::print_line;

/// Compare reports row by row: which times differ by more than a tolerance
///
/// Exits with 1 if any does, or if a row of the first report is missing in another. Times are the GPU's where both reports have
/// them, else the wall's, of the fastest of the row's places in memory: what a computer does besides only adds to those.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The report that the others are compared with
    #[arg(value_name = "REPORT")]
    base: PathBuf,
    /// Reports of the same rows, or of more
    #[arg(value_name = "OTHER", required = true)]
    others: Vec<PathBuf>,
    /// How much longer or shorter a row may take, in per cent
    #[arg(long, value_name = "PERCENT", default_value = "5%", value_parser = per_cent)]
    tolerance: f64,
}

/// "5%" and "5" are 0.05.
fn per_cent(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('%').trim().parse::<f64>() {
        Ok(x) if x.is_finite() && x >= 0.0 => Ok(x / 100.0),
        Ok(_) => Err("it must be 0 or more".into()),
        Err(error) => Err(error.to_string()),
    }
}

fn name(row: &Row) -> String {
    let tokens = match (row.suite, row.l) {
        (Suite::Prefill, Some(l)) => format!(" {l} tokens"),
        _ => String::new(),
    };
    format!("{} {}{tokens} {}", row.suite, row.name, row.variant)
}

fn flags(row: &Row) -> String {
    let flags: Vec<String> = row.flags().iter().map(ToString::to_string).collect();
    if flags.is_empty() {
        String::new()
    } else {
        format!(" ({})", flags.join(", "))
    }
}

fn in_words(difference: &Difference<'_>) -> String {
    let median = |row: &Row| row.spread().map_or_else(|| "no time".into(), |spread| time(spread.median));
    let base = difference.base;
    match (difference.other, difference.times_us, difference.change()) {
        (Some(other), Some((a, b)), Some(change)) => format!(
            "{}: {}{} and {}{}, {:+.1}%",
            name(base),
            time(a),
            flags(base),
            time(b),
            flags(other),
            100.0 * change
        ),
        _ => format!("{}: {}{} and not measured", name(base), median(base), flags(base)),
    }
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let base = bench_report::read(&args.base)?;
    let reports = args.others.iter().map(|path| bench_report::read(path)).collect::<anyhow::Result<Vec<Report>>>()?;
    let mut any = false;
    for (path, other) in args.others.iter().zip(&reports) {
        let all = differences(&base, other);
        let beyond = |d: &&Difference<'_>| d.change().is_none_or(|change| change.abs() > args.tolerance);
        let largest =
            all.iter().filter_map(Difference::change).fold(0.0, |a: f64, b| if b.abs() > a.abs() { b } else { a });
        let found: Vec<_> = all.iter().filter(beyond).collect();
        for difference in &found {
            print_line(&in_words(difference))?;
        }
        any |= !found.is_empty();
        let tolerance = 100.0 * args.tolerance;
        let (base, other) = (args.base.display(), path.display());
        print_line(&format!(
            "{base} and {other}: {} of {} rows differ by more than {tolerance}%, the largest difference is {:+.1}%",
            found.len(),
            all.len(),
            100.0 * largest
        ))
        .context("standard output")?;
    }
    Ok(if any { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerances_are_per_cents() {
        assert_eq!([per_cent("5%"), per_cent("5"), per_cent("0.5 %")], [Ok(0.05), Ok(0.05), Ok(0.005)]);
        assert!(["-1", "NaN", "inf%", "five", ""].iter().all(|text| per_cent(text).is_err()));
    }
}
