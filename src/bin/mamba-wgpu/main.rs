//! The command line. Each subcommand has a file of its own; `main` only picks one and turns its outcome into an exit
//! code: 0 done; 2 where the command line itself is at fault: a flag or argument that is missing (`--force` among them), conflicts with
//! another, or has a value that cannot be; 1 for all else: files, devices, other processes; ended from outside 130 (Ctrl-C), 143
//! (SIGTERM), 129 (SIGHUP).

/// The standard library's panics where stderr is closed: a terminal that is gone is no reason to lose a run.
macro_rules! eprintln {
    ($($part:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($part)*);
    }};
}

mod adapters;
#[cfg(feature = "app")]
mod app;
mod bench;
mod bench_cells;
mod bench_compare;
mod bench_report;
mod common;
mod completions;
mod doctor;
mod errors;
mod eval;
mod exit;
mod explain;
mod generate;
mod generate_prompts;
mod gpu_clock;
mod inspect_model;
mod logits;
mod output;
mod placement;
mod quantize;
mod sampling_args;
mod score;
mod signals;
mod special_tokens;
mod token_ids;
mod train;
mod train_args;
mod train_log;
mod train_material;
mod train_recipe;
mod verify;
#[cfg(test)]
mod words;

use clap::{Parser, Subcommand};
use exit::ExitCode;

/// Run, explain and train Mamba language models on any GPU, or run them on the CPU
#[derive(Debug, Parser)]
#[command(name = "mamba-wgpu", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Generate(generate::Args),
    #[cfg(feature = "app")]
    App(app::Args),
    Logits(logits::Args),
    Score(score::Args),
    Explain(explain::Args),
    Doctor(doctor::Args),
    Bench(bench::Args),
    Adapters(adapters::Args),
    InspectModel(inspect_model::Args),
    Quantize(quantize::Args),
    Train(Box<train::Args>),
    Eval(eval::Args),
    Completions(completions::Args),
}

fn main() {
    // Misused flags, --help and --version end here, with codes 2, 0 and 0.
    let cli = Cli::try_parse().unwrap_or_else(|error| errors::plain_words(error).exit());
    output::show_warnings();
    output::quieten_vulkan();
    exit::leave(signals::watch().and_then(|()| run(cli)).unwrap_or_else(|error| errors::report(&error)))
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    pollster::block_on(async {
        match cli.command {
            Command::Generate(args) => generate::run(args).await,
            #[cfg(feature = "app")]
            Command::App(args) => app::run(args),
            Command::Logits(args) => logits::run(args).await,
            Command::Score(args) => score::run(args).await,
            Command::Explain(args) => explain::run(args).await,
            Command::Doctor(args) => doctor::run(args).await,
            Command::Bench(args) => bench::run(args).await,
            Command::Adapters(args) => adapters::run(args).await,
            Command::InspectModel(args) => inspect_model::run(args),
            Command::Quantize(args) => quantize::run(args),
            Command::Train(args) => train::run(*args).await,
            Command::Eval(args) => eval::run(args).await,
            Command::Completions(args) => completions::run(args),
        }
    })
}
