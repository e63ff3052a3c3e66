//! A model with one text.

use super::error::{self, to_js as js_error};
use super::generation::{Generation, Options, Slot};
use super::{from_json, tell, to_js, Cancel};
use crate::error::Result;
use crate::explain::{explain, ExplainOptions, Packed};
use crate::generate::{GenerateError, GenerateOptions, GenerationSettings, Text, Tokenizer};
use crate::model::{golden, Backend, Checkpoint, LanguageModel, ModelId, ModelOptions, SavedState};
use js_sys::Function;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::rc::Rc;
use wasm_bindgen::prelude::*;

/// Tokens between the states that are kept for going back.
const KEEP_EVERY: usize = 64;

#[derive(Debug, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct LoadOptions {
    scan: String,
    chunk: usize,
    weights: String,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { scan: "fused".into(), chunk: ModelOptions::default().chunk, weights: "auto".into() }
    }
}

impl LoadOptions {
    fn parse(&self) -> Result<ModelOptions, GenerateError> {
        let invalid = |parameter, value: &str, expected| GenerateError::InvalidParameter {
            parameter,
            value: format!("{value:?}"),
            expected,
        };
        Ok(ModelOptions {
            scan: self.scan.parse().map_err(|_| invalid("scan", &self.scan, "sequential, blelloch or fused"))?,
            weights: self.weights.parse().map_err(|_| invalid("weights", &self.weights, "a weight format"))?,
            chunk: self.chunk,
            ..ModelOptions::default()
        })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Explain {
    layers: Option<Vec<usize>>,
    channels: Vec<usize>,
    max_tokens: Option<usize>,
}

/// What a page shows of a model.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Info {
    source: String,
    arch: String,
    fingerprint: String,
    description: String,
    parameters: u64,
    weight_bytes: u64,
    state_bytes: usize,
    n_layer: usize,
    d_model: usize,
    vocab_size: usize,
    has_tokenizer: bool,
    on_gpu: bool,
    /// As the file has it.
    generation_config: serde_json::Map<String, serde_json::Value>,
    defaults: GenerationSettings,
    warnings: Vec<String>,
}

/// A loaded model and the text that it reads and writes.
#[wasm_bindgen]
pub struct Model {
    model: LanguageModel,
    id: ModelId,
    tokenizer: Option<Tokenizer>,
    /// What a text's options are where the caller says nothing.
    defaults: GenerationSettings,
    chunk: usize,
    info: Info,
    text: Slot,
}

impl Model {
    pub(super) async fn load(
        checkpoint: &Checkpoint,
        backend: &Backend,
        options: &LoadOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self> {
        let options = options.parse()?;
        let c = checkpoint.config();
        let weights = checkpoint.weights();
        let tokenizer = checkpoint.tokenizer()?;
        let id = ModelId::of(checkpoint);
        let model_says = checkpoint.generation_config();
        let defaults = model_says.settings.clone().or(&GenerationSettings::of_the_program());
        let model = LanguageModel::load(checkpoint, backend, options, progress).await?;
        let text = Text::new(model.session()?).keeping_states(KEEP_EVERY);
        Ok(Self {
            info: Info {
                source: checkpoint.source().into(),
                arch: c.arch.to_string(),
                fingerprint: id.fingerprint.to_string(),
                description: id.description.clone(),
                parameters: weights.parameters(),
                weight_bytes: weights.total_bytes(),
                state_bytes: c.state_bytes(),
                n_layer: c.n_layer(),
                d_model: c.d_model,
                vocab_size: c.vocab_size,
                has_tokenizer: tokenizer.is_some(),
                on_gpu: model.gpu().is_some(),
                generation_config: model_says.stated().clone(),
                defaults: defaults.clone(),
                warnings: checkpoint.warnings().to_vec(),
            },
            tokenizer,
            defaults,
            id,
            chunk: options.chunk,
            text: Rc::new(RefCell::new(Some(text))),
            model,
        })
    }

    /// Takes the text, for somebody who works on it alone.
    fn take(&self) -> Result<Text, JsValue> {
        let busy = || error::with_code("busy", "the model is at work on its text: wait, or stop it first");
        self.text.borrow_mut().take().ok_or_else(busy)
    }

    /// What its states say of it. (Hashing a tokenizer takes a moment: the first state waits for it, not the model.)
    fn states_id(&self) -> ModelId {
        match &self.tokenizer {
            Some(tokenizer) => self.id.clone().with_tokenizer(tokenizer),
            None => self.id.clone(),
        }
    }

    fn tokenizer(&self) -> Result<&Tokenizer, JsValue> {
        let none =
            || error::with_code("no-tokenizer", "no tokenizer.json came with this model: it can only read tokens");
        self.tokenizer.as_ref().ok_or_else(none)
    }
}

#[wasm_bindgen]
impl Model {
    pub fn info(&self) -> Result<JsValue, JsValue> {
        to_js(&self.info)
    }

    /// A text's tokens; `special`: with those that the tokenizer puts around a text.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, JsValue> {
        let tokenizer = self.tokenizer()?;
        let tokens = if special { tokenizer.encode_with_special_tokens(text) } else { tokenizer.encode(text) };
        tokens.map_err(js_error)
    }

    pub fn decode(&self, tokens: Vec<u32>) -> Result<String, JsValue> {
        self.tokenizer()?.decode(&tokens).map_err(js_error)
    }

    /// The text of each token, in the context of those before it; the beginning of a character at the end has none yet.
    pub fn pieces(&self, tokens: Vec<u32>) -> Result<Vec<String>, JsValue> {
        self.tokenizer()?.pieces_so_far(&tokens).map_err(js_error)
    }

    /// What the model sees in some tokens, as `explain/view.js` shows it; the text stays where it is. `progress` gets layers done and in
    /// all.
    pub async fn explain(&self, tokens: Vec<u32>, options: String, progress: Function) -> Result<JsValue, JsValue> {
        let options: Explain = from_json(&options)?;
        let options = ExplainOptions {
            layers: options.layers,
            channels: options.channels,
            max_tokens: options.max_tokens.unwrap_or(ExplainOptions::default().max_tokens),
        };
        let pieces = self.tokenizer()?.pieces(&tokens).map_err(js_error)?;
        let mut progress = |done, total| tell(&progress, done as f64, total as f64);
        let explanation = explain(&self.model, &tokens, &options, &mut progress).await.map_err(js_error)?;
        to_js(&Packed::new(&explanation, &self.info.source, pieces))
    }

    /// The logits after the last of some tokens, which are read on their own: the text stays where it is.
    pub async fn logits(&self, tokens: Vec<u32>) -> Result<Vec<f32>, JsValue> {
        let mut session = self.model.session().map_err(js_error)?;
        session.prefill(&tokens, &mut |_, _| {}).await.map_err(js_error)?;
        session.logits().await.map_err(js_error)
    }

    /// Whether this is the model that [`Model::check_against_golden`] has values for.
    #[wasm_bindgen(js_name = isDemo)]
    pub fn is_demo(&self) -> bool {
        golden::is_of(&self.id.fingerprint)
    }

    /// Compares with transformers' values. Undefined: equal; else what differs.
    #[wasm_bindgen(js_name = checkAgainstGolden)]
    pub async fn check_against_golden(&self) -> Result<Option<String>, JsValue> {
        golden::check_model(&self.model).await.map_err(js_error)
    }

    /// All tokens of the text.
    pub fn tokens(&self) -> Result<Vec<u32>, JsValue> {
        let busy = || error::with_code("busy", "the model is at work on its text");
        self.text.borrow().as_ref().map(|text| text.tokens().to_vec()).ok_or_else(busy)
    }

    /// Adds to the text; read when it is next continued.
    pub fn push(&self, tokens: &[u32]) -> Result<(), JsValue> {
        let mut text = self.take()?;
        text.push(tokens);
        self.text.replace(Some(text));
        Ok(())
    }

    /// Starts continuing the text. The generation holds the text until it ends.
    pub fn generate(&self, options: &str, cancel: &Cancel) -> Result<Generation, JsValue> {
        let options: Options = from_json(options)?;
        let options = GenerateOptions {
            // By the next generation, or from a saved state.
            to_be_continued: true,
            prefill_chunk: self.chunk,
            cancel: cancel.0.clone(),
            ..options.or(&self.defaults)
        };
        options.validate().map_err(js_error)?;
        let tokenizer = self.tokenizer()?;
        let text = self.take()?;
        if text.pending().is_empty() && text.tokens().is_empty() {
            self.text.replace(Some(text));
            return Err(js_error(GenerateError::EmptyPrompt));
        }
        Ok(Generation::new(self.text.clone(), text, tokenizer.clone(), options))
    }

    /// Back to an empty text.
    pub fn clear(&self) -> Result<(), JsValue> {
        let mut text = self.take()?;
        text.clear();
        self.text.replace(Some(text));
        Ok(())
    }

    /// Back to the first `length` tokens.
    pub async fn rewind(&self, length: usize) -> Result<(), JsValue> {
        let mut text = self.take()?;
        let result = text.rewind(length).await;
        self.text.replace(Some(text));
        result.map_err(js_error)
    }

    /// The text and its state as a file (see `SavedState`).
    #[wasm_bindgen(js_name = saveState)]
    pub async fn save_state(&self) -> Result<Vec<u8>, JsValue> {
        let mut text = self.take()?;
        let saved = text.save(&self.states_id()).await;
        self.text.replace(Some(text));
        Ok(saved.map_err(js_error)?.to_bytes())
    }

    /// Goes on from such a file; `name` is what messages call it. The text is as before if it is refused.
    #[wasm_bindgen(js_name = loadState)]
    pub fn load_state(&self, name: &str, bytes: &[u8]) -> Result<(), JsValue> {
        let saved = SavedState::from_bytes(name, bytes).map_err(js_error)?;
        saved.check_model(name, &self.states_id()).map_err(js_error)?;
        let mut text = self.take()?;
        let result = text.restore(&saved);
        self.text.replace(Some(text));
        result.map_err(js_error)
    }
}
