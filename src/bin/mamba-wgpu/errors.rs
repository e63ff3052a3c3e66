//! Which exit code an error has, and how it is worded.

use std::io;
use std::process::ExitCode;

use mamba_wgpu::error::InputError;
use mamba_wgpu::generate::GenerateError;
use mamba_wgpu::gpu::GpuError;
use mamba_wgpu::Error;

/// The user asked for something that makes no sense; names the flag or the argument.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Misuse(pub String);

/// A [`Misuse`] as an error.
pub fn misuse(message: impl Into<String>) -> anyhow::Error {
    Misuse(message.into()).into()
}

/// An option that the library refused, in the words of the command line: `--top-p NaN: must be ...`.
pub fn flag_error(error: GenerateError) -> anyhow::Error {
    match error {
        GenerateError::InvalidParameter { parameter, value, expected } => {
            misuse(format!("--{} {value}: it must be {expected}", parameter.replace('_', "-")))
        }
        GenerateError::EmptyStop { .. } => misuse("--stop: an empty stop string would end every text at once"),
        other => Error::from(other).into(),
    }
}

/// Says what went wrong on stderr and gives the exit code.
pub fn report(error: &anyhow::Error) -> ExitCode {
    // `mamba-wgpu ... | head` closed stdout: nobody is left to complain to.
    if error.chain().any(|cause| cause.downcast_ref().is_some_and(is_broken_pipe)) {
        return ExitCode::SUCCESS;
    }
    eprintln!("error: {error:#}");
    match error.chain().any(is_misuse) {
        true => ExitCode::from(2),
        false => ExitCode::FAILURE,
    }
}

fn is_broken_pipe(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

fn is_misuse(cause: &(dyn std::error::Error + 'static)) -> bool {
    let generate = |error: &GenerateError| {
        matches!(
            error,
            GenerateError::InvalidParameter { .. } | GenerateError::EmptyStop { .. } | GenerateError::EmptyPrompt
        )
    };
    let input = |error: &InputError| {
        matches!(error, InputError::TokenOutOfRange { .. } | InputError::NoTokens | InputError::ZeroChunk)
    };
    let gpu = |error: &GpuError| matches!(error, GpuError::UnknownAdapter { .. });
    match cause.downcast_ref::<Error>() {
        Some(Error::Generate(error)) => generate(error),
        Some(Error::Input(error)) => input(error),
        Some(Error::Gpu(error)) => gpu(error),
        Some(_) => false,
        None => {
            cause.is::<Misuse>()
                || cause.downcast_ref().is_some_and(generate)
                || cause.downcast_ref().is_some_and(input)
                || cause.downcast_ref().is_some_and(gpu)
        }
    }
}
