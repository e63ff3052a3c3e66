//! A byte-level BPE as its vocabulary and its merges, from before tokenizer.json: vocab.json and merges.txt.
//!
//! They do not say how a text is cut up before the merges, which transformers knows by the tokenizer's class. Those of the classes
//! below are put together here as transformers puts them together; for another one there is an error that says how to convert it.

use super::beside::{added_token, object, TokenizerConfig, ROLES};
use super::GenerateError;
use crate::checkpoint::sidecars::{ADDED_TOKENS, MERGES, TOKENIZER_CONFIG, VOCAB};
use crate::checkpoint::sniff::{instead, trim_bom};
use crate::model::Sidecars;
use serde_json::{json, Map, Value};
use std::collections::{BTreeMap, BTreeSet};

const END_OF_TEXT: &str = "<|endoftext|>";
/// How Qwen2 cuts a text up.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

fn bad(file: &str, reason: String) -> GenerateError {
    GenerateError::TokenizerFile { file: file.into(), reason }
}

/// The tokenizer as a tokenizer.json; `None` where one of the two files is missing.
pub(super) fn tokenizer_json(sidecars: &Sidecars, config: &TokenizerConfig) -> Result<Option<Vec<u8>>, GenerateError> {
    let (Some(vocab), Some(merges)) = (sidecars.get(VOCAB), sidecars.get(MERGES)) else { return Ok(None) };
    let vocab: BTreeMap<String, u32> = serde_json::from_slice(trim_bom(vocab))
        .map_err(|e| bad(VOCAB, instead(vocab).unwrap_or(format!("not a JSON object of tokens and their ids: {e}"))))?;
    // An empty file would be no merges: every text single bytes.
    let merges = match merges {
        [] => Err(bad(MERGES, String::new())),
        merges => pairs(merges, &vocab),
    }
    .map_err(|error| instead(merges).map_or(error, |what| bad(MERGES, what)))?;
    // Mamba's models have GPT-NeoX's where nothing is said.
    let class = config.class().unwrap_or("GPTNeoXTokenizer");
    let space = config.flag("add_prefix_space")?;
    let bytes =
        |regex| json!({ "type": "ByteLevel", "add_prefix_space": space, "trim_offsets": true, "use_regex": regex });
    let nfc = json!({ "type": "NFC" });
    let (normalizer, pre_tokenizer) = match class {
        "GPT2Tokenizer" | "CodeGenTokenizer" => (Value::Null, bytes(true)),
        "GPTNeoXTokenizer" => (nfc, bytes(true)),
        "Qwen2Tokenizer" => {
            let cut =
                json!({ "type": "Split", "pattern": { "Regex": QWEN2 }, "behavior": "Isolated", "invert": false });
            (nfc, json!({ "type": "Sequence", "pretokenizers": [cut, bytes(false)] }))
        }
        _ => return Err(unknown(class)),
    };
    let default = |role: &str| match role {
        "bos_token" => (class != "Qwen2Tokenizer").then_some(END_OF_TEXT),
        "eos_token" | "unk_token" => Some(END_OF_TEXT),
        "pad_token" => (class == "GPTNeoXTokenizer").then_some("<|padding|>"),
        _ => None,
    };
    let special = |role: &str| -> Result<Option<String>, GenerateError> {
        let default = || default(role).filter(|token| vocab.contains_key(*token)).map(str::to_owned);
        Ok(config.token(role)?.unwrap_or_else(default).filter(|token| !token.is_empty()))
    };
    let specials = ROLES.into_iter().map(special).collect::<Result<Vec<_>, _>>()?;
    let mut added = Added { vocab: &vocab, new: 0, ids: Map::new(), tokens: Vec::new() };
    added.declared(sidecars, config, &specials)?;
    for token in specials.iter().flatten() {
        added.add(added_token("", &json!(token))?);
    }
    for key in ["additional_special_tokens", "extra_special_tokens"] {
        for token in config.map.get(key).and_then(Value::as_array).into_iter().flatten() {
            added.add(added_token(key, token)?);
        }
    }
    // A role of no token is none, whatever the flag says.
    let (bos, eos) = (config.flag("add_bos_token")?, config.flag("add_eos_token")?);
    let before = specials[0].clone().filter(|_| bos);
    let after = specials[1].clone().filter(|_| eos);
    let post_processor = added.template(before, after);
    let model = json!({
        "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "", "end_of_word_suffix": "",
        "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": merges,
    });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added.tokens, "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer, "post_processor": post_processor,
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": model,
    });
    Ok(Some(tokenizer.to_string().into_bytes()))
}

/// The merges, a line each, of tokens that there are.
fn pairs<'a>(merges: &'a [u8], vocab: &BTreeMap<String, u32>) -> Result<Vec<(&'a str, &'a str)>, GenerateError> {
    let text = std::str::from_utf8(trim_bom(merges)).map_err(|e| bad(MERGES, format!("not UTF-8: {e}")))?;
    let mut pairs = Vec::new();
    for (i, line) in text.lines().enumerate() {
        if line.is_empty() || line.starts_with("#version") {
            continue;
        }
        let line_is = |what: &str| bad(MERGES, format!("line {} {what}", i + 1));
        let pair = line.split_once(' ').filter(|(_, b)| !b.contains(' '));
        let (a, b) = pair.ok_or_else(|| line_is("is no pair of tokens with a space between them"))?;
        let merged = format!("{a}{b}");
        if let Some(missing) = [a, b, &merged].into_iter().find(|token| !vocab.contains_key(*token)) {
            return Err(line_is(&format!("needs the token {missing:?}, which {VOCAB} does not have")));
        }
        pairs.push((a, b));
    }
    Ok(pairs)
}

fn unknown(class: &str) -> GenerateError {
    let reason = format!(
        "`tokenizer_class` is \"{class}\", and of {VOCAB} and {MERGES} only those of GPT2Tokenizer, GPTNeoXTokenizer, \
         CodeGenTokenizer and Qwen2Tokenizer are read. Convert it once, in Python:\n\n    \
         from transformers import AutoTokenizer\n    \
         AutoTokenizer.from_pretrained(FOLDER).backend_tokenizer.save(FOLDER + \"/tokenizer.json\")\n"
    );
    bad(TOKENIZER_CONFIG, reason)
}

/// Tokens that are looked for in a text before it is cut up, special ones among them.
struct Added<'a> {
    vocab: &'a BTreeMap<String, u32>,
    /// How many the vocabulary does not have.
    new: usize,
    ids: Map<String, Value>,
    tokens: Vec<Value>,
}

impl Added<'_> {
    fn id(&self, token: &str) -> Option<u32> {
        let new = || self.ids.get(token).and_then(Value::as_u64).map(|id| id as u32);
        self.vocab.get(token).copied().or_else(new)
    }

    /// Adds one, unless it is there: by the vocabulary's id, or behind the last one.
    fn add(&mut self, mut token: Value) {
        let content = token["content"].as_str().unwrap_or_default().to_owned();
        if content.is_empty() || self.ids.contains_key(&content) {
            return;
        }
        let id = self.vocab.get(&content).copied().unwrap_or_else(|| {
            self.new += 1;
            (self.vocab.len() + self.new - 1) as u32
        });
        token["id"] = json!(id);
        self.ids.insert(content, json!(id));
        self.tokens.push(token);
    }

    /// Those of added_tokens_decoder in the config, or else of added_tokens.json, by their ids.
    fn declared(
        &mut self,
        sidecars: &Sidecars,
        config: &TokenizerConfig,
        specials: &[Option<String>],
    ) -> Result<(), GenerateError> {
        let mut by_id: Vec<(u64, Value)> = Vec::new();
        if let Some(decoder) = config.map.get("added_tokens_decoder") {
            let decoder = decoder.as_object().ok_or_else(|| {
                bad(TOKENIZER_CONFIG, "`added_tokens_decoder` must be an object of ids and tokens".into())
            })?;
            for (id, token) in decoder {
                let id = id
                    .parse()
                    .map_err(|_| bad(TOKENIZER_CONFIG, format!("`added_tokens_decoder`: {id:?} is no token id")))?;
                by_id.push((id, added_token("added_tokens_decoder", token)?));
            }
        } else {
            let specials: BTreeSet<&str> = specials.iter().flatten().map(String::as_str).collect();
            for (token, id) in object(sidecars, ADDED_TOKENS)? {
                let special = specials.contains(token.as_str());
                let id = id.as_u64().ok_or_else(|| bad(ADDED_TOKENS, format!("the id of {token:?} is {id}")))?;
                let token = json!({ "content": token, "special": special, "normalized": !special });
                by_id.push((id, added_token("", &token)?));
            }
        }
        by_id.sort_by_key(|(id, _)| *id);
        by_id.into_iter().for_each(|(_, token)| self.add(token));
        Ok(())
    }

    /// The post-processor that puts these tokens around a text.
    fn template(&self, before: Option<String>, after: Option<String>) -> Value {
        let mut specials = Map::new();
        let mut special = |token: &Option<String>, type_id: u32| -> Vec<Value> {
            let Some(token) = token else { return Vec::new() };
            specials.insert(token.clone(), json!({ "id": token, "ids": [self.id(token)], "tokens": [token] }));
            vec![json!({ "SpecialToken": { "id": token, "type_id": type_id } })]
        };
        let mut whole = |sequence: &str, type_id: u32| {
            let text = json!({ "Sequence": { "id": sequence, "type_id": type_id } });
            [special(&before, type_id), vec![text], special(&after, type_id)].concat()
        };
        let (a, b) = (whole("A", 0), whole("B", 1));
        let pair = [a.clone(), b].concat();
        json!({
            "type": "TemplateProcessing", "single": a, "pair": pair, "special_tokens": specials,
        })
    }
}
