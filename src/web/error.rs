//! Errors for JavaScript: an `Error` whose `code` says what can be done about it, whose message says what happened.

use crate::error::Error;
use crate::generate::GenerateError;
use crate::gpu::GpuError;
use crate::model::{LoadError, StateError};
use crate::train::TrainError;
use wasm_bindgen::JsValue;

/// Converts any of the crate's errors.
pub(super) fn to_js(error: impl Into<Error>) -> JsValue {
    let error = error.into();
    with_code(code(&error), &error.to_string())
}

/// An error of this surface's own.
pub(super) fn with_code(code: &str, message: &str) -> JsValue {
    let error = js_sys::Error::new(message);
    error.set_name("MambaError");
    // A plain object of our own making takes a property.
    let _ = js_sys::Reflect::set(&error, &"code".into(), &code.into());
    error.into()
}

/// Something that cannot happen.
pub(super) fn fault(message: &str) -> JsValue {
    with_code("fault", message)
}

/// The codes, as web/pkg/index.d.ts lists them.
fn code(error: &Error) -> &'static str {
    match error {
        Error::Load(error) => match error {
            LoadError::EmptyFile { .. }
            | LoadError::WrongFile { .. }
            | LoadError::Header { .. }
            | LoadError::DuplicateTensor { .. }
            | LoadError::NonFinite { .. } => "damaged-file",
            _ => "unusable-model",
        },
        Error::State(error) => match error {
            StateError::NotAState { .. } => "not-a-state",
            StateError::Newer { .. } => "newer-state",
            StateError::OtherModel { .. } | StateError::OtherTokenizer { .. } => "other-models-state",
            _ => "damaged-state",
        },
        Error::Gpu(error) => match error {
            GpuError::NoAdapter { .. }
            | GpuError::UnknownAdapter { .. }
            | GpuError::OnlySoftware { .. }
            | GpuError::NoCompute { .. } => "no-gpu",
            GpuError::Device { .. } => "device-refused",
            GpuError::OutOfMemory { .. } => "out-of-memory",
            GpuError::BufferTooLarge { .. }
            | GpuError::BindingTooLarge { .. }
            | GpuError::GridTooLarge { .. }
            | GpuError::Unsupported { .. } => "too-large",
            GpuError::Lost { .. } => "device-lost",
            _ => "gpu-fault",
        },
        Error::Train(TrainError::NotFinite { .. }) => "diverged",
        Error::Train(TrainError::Unfit) => "gpu-fault",
        Error::Generate(GenerateError::BadTokenizer { .. } | GenerateError::TokenizerFile { .. }) => "bad-tokenizer",
        // Nothing here quantises.
        Error::Train(_) | Error::Generate(_) | Error::Input(_) | Error::Quantise(_) => "options",
    }
}
