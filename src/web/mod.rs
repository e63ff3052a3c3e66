//! The crate for JavaScript: what `web/pkg/engine.js` calls, which gives it the shape that users see.
//!
//! Only wasm32, and only with the feature `web`. Everything that takes long is a promise; it ends where the device's
//! queue does, so that a worker hears messages meanwhile. Options and results of more than one value are JSON, errors are
//! JavaScript errors with a `code` ([`error`]).
//!
//! * [`backend`]: a device, its self-test and benchmark.
//! * [`files`]: a checkpoint's files as they arrive.
//! * [`model`]: a model and its one text.
//! * [`generation`]: the text being continued.
//! * [`training`]: a small model in training.

mod backend;
mod error;
mod files;
mod generation;
mod model;
mod training;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use wasm_bindgen::prelude::*;

/// A panic is a fault of this crate: its message goes to the console, the instance cannot be used any more.
#[wasm_bindgen(start)]
fn start() {
    console_error_panic_hook::set_once();
}

/// This crate's version and the commit that it was built from.
#[wasm_bindgen]
pub fn version() -> String {
    format!("{} ({})", env!("CARGO_PKG_VERSION"), crate::bench::COMMIT)
}

/// Ends what it was given to, at the next moment possible.
#[wasm_bindgen]
#[derive(Default)]
pub struct Cancel(Arc<AtomicBool>);

#[wasm_bindgen]
impl Cancel {
    #[wasm_bindgen(constructor)]
    pub fn new() -> Self {
        Self::default()
    }
    /// Another handle of the same: calls take theirs.
    pub fn share(&self) -> Self {
        Self(self.0.clone())
    }
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A result as a JavaScript object, by way of JSON.
fn to_js(value: &impl serde::Serialize) -> Result<JsValue, JsValue> {
    let json = serde_json::to_string(value).map_err(|e| error::fault(&e.to_string()))?;
    js_sys::JSON::parse(&json)
}

/// Options that JavaScript gave as JSON.
fn from_json<T: serde::de::DeserializeOwned>(json: &str) -> Result<T, JsValue> {
    serde_json::from_str(json).map_err(|e| error::with_code("options", &format!("bad options: {e}")))
}

/// Calls `f(done, total)`. What it throws is its own affair.
fn tell(f: &js_sys::Function, done: f64, total: f64) {
    let _ = f.call2(&JsValue::NULL, &done.into(), &total.into());
}
