//! `mamba-wgpu bench report`: several adapters' reports as one page.

pub mod charts;
mod page;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use charts::Chart;
use mamba_wgpu::bench::Report;

use crate::output::print_line;

/// Put reports side by side in one page: tables, charts, and what to beware of
///
/// The page is a single file that needs nothing else. benches/records in the source holds reports to compare with.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Reports that `mamba-wgpu bench --json` wrote (a browser's too)
    #[arg(value_name = "REPORT", required = true)]
    reports: Vec<PathBuf>,
    /// Write the page to this file
    #[arg(long, value_name = "FILE")]
    html: PathBuf,
    /// Write each chart as an SVG file into this folder too
    #[arg(long, value_name = "FOLDER")]
    svg: Option<PathBuf>,
    /// Write each chart as a PNG file into this folder too
    #[arg(long, value_name = "FOLDER")]
    png: Option<PathBuf>,
}

/// Writes a file for each chart into a folder.
fn write_charts(
    folder: &Path,
    ending: &str,
    charts: &[Chart],
    bytes: impl Fn(&Chart) -> anyhow::Result<Vec<u8>>,
) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    for chart in charts {
        let path = folder.join(format!("{}.{ending}", chart.id));
        fs::write(&path, bytes(chart)?).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

pub fn read(path: &Path) -> anyhow::Result<Report> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} is not a report of `mamba-wgpu bench --json`", path.display()))
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let reports = args.reports.iter().map(|path| read(path)).collect::<anyhow::Result<Vec<_>>>()?;
    let charts = charts::all(&reports);
    if let Some(folder) = &args.svg {
        write_charts(folder, "svg", &charts, |chart| Ok(chart.svg()?.into_bytes()))?;
    }
    if let Some(folder) = &args.png {
        write_charts(folder, "png", &charts, Chart::png)?;
    }
    fs::write(&args.html, page::html(&reports, &charts)?).with_context(|| args.html.display().to_string())?;
    print_line(&format!("{}: {} reports, {} charts", args.html.display(), reports.len(), charts.len()))?;
    Ok(ExitCode::SUCCESS)
}
