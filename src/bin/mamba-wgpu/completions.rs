//! `mamba-wgpu completions`: tab completion for a shell.

use std::io::Write;

use clap::CommandFactory;

use crate::exit::ExitCode;

/// Print completions for a shell, e.g. `mamba-wgpu completions bash > ~/.local/share/bash-completion/completions/mamba-wgpu`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which shell
    shell: clap_complete::Shell,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    // Into memory first: clap_complete panics where stdout is closed.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::Cli::command(), "mamba-wgpu", &mut script);
    std::io::stdout().lock().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}
