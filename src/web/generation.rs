//! A text being continued.

use super::error::{self, to_js as js_error};
use super::{tell, to_js};
use crate::error::Result;
use crate::generate::{FinishReason, GenerateOptions, GenerationSettings, Generator, Stats, Text, Tokenizer};
use js_sys::Function;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::rc::Rc;
use wasm_bindgen::prelude::*;

/// Where the text is while nobody works on it.
pub(super) type Slot = Rc<RefCell<Option<Text>>>;

/// As `mamba-wgpu generate`'s flags, with the same defaults but for the seed, which the caller chooses.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Options {
    max_tokens: Option<usize>,
    temperature: Option<f32>,
    top_k: Option<u32>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    seed: u64,
    stop: Option<Vec<String>>,
    ignore_eos: bool,
}

impl Options {
    /// With these for what the caller left open.
    pub fn or(self, defaults: &GenerationSettings) -> GenerateOptions {
        let Self { max_tokens, temperature, top_k, top_p, min_p, repetition_penalty, seed, stop, ignore_eos } = self;
        let given = GenerationSettings { max_tokens, temperature, top_k, top_p, min_p, repetition_penalty, stop };
        GenerateOptions { ignore_eos, ..given.or(defaults).options(seed) }
    }
}

#[derive(Serialize)]
struct JsPiece {
    text: String,
    token: Option<u32>,
}

#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    finish_reason: Option<FinishReason>,
    prompt_tokens: usize,
    generated_tokens: usize,
}

enum Stage {
    /// Not begun yet.
    Ready(Box<(Text, Tokenizer, GenerateOptions)>),
    Running(Box<Generator<Text>>),
    /// A call is at work on it.
    Busy,
    Ended,
}

/// Holds its model's text until it ends, or is freed.
#[wasm_bindgen]
pub struct Generation {
    home: Slot,
    stage: RefCell<Stage>,
    outcome: RefCell<Outcome>,
}

impl Generation {
    pub(super) fn new(home: Slot, text: Text, tokenizer: Tokenizer, options: GenerateOptions) -> Self {
        let stage = Stage::Ready(Box::new((text, tokenizer, options)));
        Self { home, stage: RefCell::new(stage), outcome: RefCell::default() }
    }

    /// The generator, for one call. `None` once it has ended.
    async fn take(&self) -> Result<Option<Box<Generator<Text>>>, JsValue> {
        match self.stage.replace(Stage::Busy) {
            Stage::Running(generator) => Ok(Some(generator)),
            Stage::Ready(ready) => {
                let (mut text, tokenizer, options) = *ready;
                if text.pending().is_empty() {
                    // The model ended this text; sample after its last token again.
                    if let Err(error) = text.rewind(text.tokens().len()).await {
                        self.go_home(text);
                        return Err(js_error(error));
                    }
                }
                // Options and prompt were checked before the text was taken.
                Ok(Some(Box::new(text.generate(&tokenizer, options).map_err(js_error)?)))
            }
            Stage::Ended => {
                self.stage.replace(Stage::Ended);
                Ok(None)
            }
            Stage::Busy => Err(error::with_code("busy", "the call before has not ended")),
        }
    }

    fn go_home(&self, text: Text) {
        self.stage.replace(Stage::Ended);
        self.home.replace(Some(text));
    }

    fn end(&self, generator: Generator<Text>) {
        let Stats { prompt_tokens, generated_tokens, .. } = generator.stats();
        let finish_reason = generator.finish_reason();
        self.outcome.replace(Outcome { finish_reason, prompt_tokens, generated_tokens });
        self.go_home(Text::from_generator(generator));
    }
}

#[wasm_bindgen]
impl Generation {
    /// Reads the prompt; `progress` gets tokens done and in all.
    pub async fn prefill(&self, progress: Function) -> Result<(), JsValue> {
        let Some(mut generator) = self.take().await? else { return Ok(()) };
        let result = generator.prefill(&mut |done, total| tell(&progress, done as f64, total as f64)).await;
        match result {
            Ok(()) => {
                self.stage.replace(Stage::Running(generator));
                Ok(())
            }
            Err(error) => {
                self.end(*generator);
                Err(js_error(error))
            }
        }
    }

    /// The next piece, `{text, token}`; undefined after the last. Once that or an error has come, the text is the model's
    /// again.
    pub async fn next(&self) -> Result<JsValue, JsValue> {
        let Some(mut generator) = self.take().await? else { return Ok(JsValue::UNDEFINED) };
        match generator.next().await {
            Ok(Some(piece)) => {
                self.stage.replace(Stage::Running(generator));
                to_js(&JsPiece { text: piece.text, token: piece.token })
            }
            Ok(None) => {
                self.end(*generator);
                Ok(JsValue::UNDEFINED)
            }
            Err(error) => {
                self.end(*generator);
                Err(js_error(error))
            }
        }
    }

    /// Why it ended, and counts; also before its end.
    pub fn outcome(&self) -> Result<JsValue, JsValue> {
        to_js(&*self.outcome.borrow())
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        match self.stage.replace(Stage::Ended) {
            Stage::Ready(ready) => self.go_home(ready.0),
            Stage::Running(generator) => self.end(*generator),
            Stage::Busy | Stage::Ended => {}
        }
    }
}
