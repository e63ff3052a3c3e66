//! What went wrong, in words, with a way on.

use mamba_wgpu::gpu::GpuError;
use mamba_wgpu::Error;

/// What the user can do about it by a button.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WayOn {
    /// Choose another model.
    OpenAnother,
    /// Run the same model on the CPU.
    UseCpu,
    /// Bring the model to the device again.
    Reload,
    /// Go back to the model built into the program.
    UseEmbedded,
}

impl WayOn {
    pub fn label(self) -> &'static str {
        match self {
            Self::OpenAnother => "Open another model",
            Self::UseCpu => "Use the CPU",
            Self::Reload => "Load the model again",
            Self::UseEmbedded => "Use the built-in model",
        }
    }
}

/// Shown until it is dismissed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What was going on: "The model could not be loaded".
    pub title: String,
    /// The library's words: file, tensor, shapes, limits.
    pub message: String,
    pub ways: Vec<WayOn>,
}

impl Problem {
    /// Something that only words help with.
    pub fn new(title: &str, message: impl Into<String>) -> Self {
        Self { title: title.into(), message: message.into(), ways: Vec::new() }
    }

    pub fn with(mut self, ways: &[WayOn]) -> Self {
        self.ways.extend(ways);
        self
    }

    /// An error of the library, with what helps against errors of its kind.
    pub fn of(title: &str, error: &Error) -> Self {
        let ways: &[WayOn] = match error {
            Error::Load(_) => &[WayOn::OpenAnother, WayOn::UseEmbedded],
            Error::Gpu(GpuError::Lost { .. }) => &[WayOn::Reload, WayOn::UseCpu],
            Error::Gpu(_) => &[WayOn::UseCpu],
            _ => &[],
        };
        Self::new(title, error.to_string()).with(ways)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mamba_wgpu::generate::GenerateError;

    #[test]
    fn ways_on_fit_the_error() {
        let lost = Error::Gpu(GpuError::Lost { message: "gone".into() });
        assert_eq!(Problem::of("x", &lost).ways, [WayOn::Reload, WayOn::UseCpu]);
        let full = Error::Gpu(GpuError::OutOfMemory { allocated: 1, message: "m".into() });
        assert_eq!(Problem::of("x", &full).ways, [WayOn::UseCpu]);
        let empty = Problem::of("x", &Error::Generate(GenerateError::EmptyPrompt));
        assert!(empty.ways.is_empty() && empty.message.contains("prompt is empty"));
    }
}
