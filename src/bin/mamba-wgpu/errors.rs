//! Which exit code an error has, and how it is worded.

use std::io;
use std::num::{IntErrorKind, ParseFloatError, ParseIntError};

use anyhow::anyhow;
use mamba_wgpu::error::InputError;
use mamba_wgpu::files::FileError;
use mamba_wgpu::generate::GenerateError;
use mamba_wgpu::gpu::GpuError;
use mamba_wgpu::Error;

use crate::exit::ExitCode;

/// The command line is at fault, not what is in a file or on the machine; names the flag or the argument.
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

/// A device that could not be opened, in the words of the command line.
pub fn gpu_error(error: GpuError) -> anyhow::Error {
    match error {
        GpuError::UnknownAdapter { .. } => misuse(format!("--adapter: {error}")),
        other => Error::from(other).into(),
    }
}

/// The same of one of several devices.
pub fn adapters_error(error: GpuError) -> anyhow::Error {
    match error {
        GpuError::UnknownAdapter { .. } => misuse(format!("--adapters: {error}")),
        other => Error::from(other).into(),
    }
}

/// Token ids that the library refused; `name` says where they come from.
pub fn tokens_error(name: &str, error: Error) -> anyhow::Error {
    match error {
        Error::Input(InputError::TokenOutOfRange { .. }) if name.starts_with("--tokens-file") => {
            anyhow!("{name}: {error}")
        }
        Error::Input(InputError::TokenOutOfRange { .. }) => misuse(format!("{name}: {error}")),
        other => other.into(),
    }
}

/// An error with its causes. Those of the library say what they were caused by and give the cause besides, as callers without
/// this program want it: what was said is not said again.
pub fn in_words(error: &anyhow::Error) -> String {
    let mut words = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !words.contains(&cause) {
            words += &format!(": {cause}");
        }
    }
    words
}

/// A number that is none, in plain words: clap passes on those of Rust ("invalid digit found in string").
pub fn plain_words(error: clap::Error) -> clap::Error {
    use clap::error::{ContextKind, ErrorKind};
    let source = std::error::Error::source(&error);
    let whole = source.and_then(|source| source.downcast_ref::<ParseIntError>());
    let expected = match (whole.map(ParseIntError::kind), source) {
        // Flags with a lower limit have parsers of their own.
        (Some(IntErrorKind::PosOverflow), _) => format!("at most {}", u64::MAX),
        (Some(_), _) => "a whole number".into(),
        (None, Some(source)) if source.is::<ParseFloatError>() => "a number".into(),
        _ => return error,
    };
    match (error.get(ContextKind::InvalidArg), error.get(ContextKind::InvalidValue)) {
        (Some(flag), Some(value)) => {
            let words = format!("invalid value '{value}' for '{flag}': it must be {expected}\n");
            clap::Error::raw(ErrorKind::ValueValidation, words)
        }
        _ => error,
    }
}

/// Says what went wrong on stderr and gives the exit code.
pub fn report(error: &anyhow::Error) -> ExitCode {
    // `mamba-wgpu ... | head` closed stdout: nobody is left to complain to.
    if error.chain().any(|cause| cause.downcast_ref().is_some_and(is_broken_pipe) || is_closed(cause)) {
        return ExitCode::SUCCESS;
    }
    eprintln!("error: {}", in_words(error));
    match error.chain().any(is_misuse) {
        true => ExitCode::from(2),
        false => ExitCode::FAILURE,
    }
}

fn is_broken_pipe(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

/// The same of what a flag writes to standard output.
fn is_closed(cause: &(dyn std::error::Error + 'static)) -> bool {
    matches!(cause.downcast_ref(), Some(FileError::Closed { .. }))
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

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    /// As a library's error that names the file, and gives its cause besides.
    #[derive(Debug, thiserror::Error)]
    #[error("{path}: {source}")]
    struct Failed {
        path: &'static str,
        source: io::Error,
    }

    #[test]
    fn a_cause_is_told_once() {
        let failed = || Failed { path: "out", source: io::Error::other("no space left") };
        assert_eq!(format!("{:#}", anyhow::Error::from(failed())), "out: no space left: no space left");
        assert_eq!(in_words(&failed().into()), "out: no space left");
        // What is said only by the cause stays.
        let told = Err::<(), _>(failed().source).context("--json-log log").context("train").unwrap_err();
        assert_eq!(in_words(&told), "train: --json-log log: no space left");
    }
}
