//! `mamba-wgpu bench report`: several adapters' reports as one page.

pub mod charts;
mod page;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, Context};
use charts::Chart;
use mamba_wgpu::bench::Report;
use mamba_wgpu::files::{create_folder, Kind, Output};

use crate::exit::ExitCode;
use crate::output::{apart, place, print_line};

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
    /// Replace files there that this program did not write
    #[arg(long)]
    force: bool,
}

/// The page, by its beginning.
const PAGE: Kind =
    Kind { name: "page of `mamba-wgpu bench report`", is: |bytes| bytes.starts_with(page::BEGIN.as_bytes()) };

/// Tries the places of all charts in a folder.
fn places(kind: &str, folder: Option<&Path>, charts: &[Chart], force: bool) -> anyhow::Result<Vec<Output>> {
    let Some(folder) = folder else { return Ok(Vec::new()) };
    create_folder(folder).map_err(|error| anyhow!("--{kind} {error}"))?;
    let path = |chart: &Chart| folder.join(format!("{}.{kind}", chart.id));
    charts.iter().map(|chart| place(kind, &path(chart), charts::PICTURE, force)).collect()
}

pub fn read(path: &Path) -> anyhow::Result<Report> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text)
        .with_context(|| format!("{}: not a report of `mamba-wgpu bench --json`", path.display()))
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let reports = args.reports.iter().map(|path| read(path)).collect::<anyhow::Result<Vec<_>>>()?;
    let charts = charts::all(&reports);
    // All are tried before the first is written.
    let html = place("html", &args.html, PAGE, args.force)?;
    let svg = places("svg", args.svg.as_deref(), &charts, args.force)?;
    let png = places("png", args.png.as_deref(), &charts, args.force)?;
    let all = [("html", &html)].into_iter().chain(svg.iter().map(|o| ("svg", o))).chain(png.iter().map(|o| ("png", o)));
    apart(false, all)?;
    for (chart, output) in charts.iter().zip(&svg) {
        output.write(charts::marked_svg(chart.svg()?).as_bytes())?;
    }
    for (chart, output) in charts.iter().zip(&png) {
        output.write(&chart.png()?)?;
    }
    html.write(page::html(&reports, &charts)?.as_bytes())?;
    // On standard output the page stands alone.
    if !html.is_stdout() {
        print_line(&format!("{}: {} reports, {} charts", args.html.display(), reports.len(), charts.len()))?;
    }
    Ok(ExitCode::SUCCESS)
}
