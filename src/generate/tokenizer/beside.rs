//! tokenizer_config.json and special_tokens_map.json: what transformers knows of a tokenizer beside its vocabulary.

use super::GenerateError;
use crate::checkpoint::sidecars::{SPECIAL_TOKENS_MAP, TOKENIZER_CONFIG};
use crate::checkpoint::sniff::{instead, trim_bom};
use crate::model::Sidecars;
use serde_json::{json, Map, Value};

/// Keys of special tokens, in transformers' order.
pub(super) const ROLES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The two files as one map, as transformers joins them: the special tokens' map counts where the config has no
/// `added_tokens_decoder`.
#[derive(Debug, Default)]
pub(super) struct TokenizerConfig {
    pub map: Map<String, Value>,
}

/// A file's JSON object; an empty one where there is no such file.
pub(super) fn object(sidecars: &Sidecars, name: &str) -> Result<Map<String, Value>, GenerateError> {
    let Some(bytes) = sidecars.get(name) else { return Ok(Map::new()) };
    let bad = |reason: String| GenerateError::TokenizerFile { file: name.into(), reason };
    match serde_json::from_slice(trim_bom(bytes))
        .map_err(|e| bad(instead(bytes).unwrap_or(format!("not JSON: {e}"))))?
    {
        // As a server says that there is no such file.
        Value::Object(map) if map.contains_key("error") && instead(bytes).is_some() => {
            Err(bad(instead(bytes).unwrap_or_default()))
        }
        Value::Object(map) => Ok(map),
        _ => Err(bad(instead(bytes).unwrap_or("not a JSON object".into()))),
    }
}

impl TokenizerConfig {
    pub fn read(sidecars: &Sidecars) -> Result<Self, GenerateError> {
        let mut map = object(sidecars, TOKENIZER_CONFIG)?;
        if !map.contains_key("added_tokens_decoder") {
            map.extend(object(sidecars, SPECIAL_TOKENS_MAP)?);
        }
        Ok(Self { map })
    }

    /// The tokenizer's class, without the "Fast" that older ones end in.
    pub fn class(&self) -> Option<&str> {
        let class = self.map.get("tokenizer_class")?.as_str()?;
        Some(class.strip_suffix("Fast").unwrap_or(class))
    }

    pub fn flag(&self, key: &str) -> Result<bool, GenerateError> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(bad_value(key, other, "true or false")),
        }
    }

    /// A special token: a string, or an object with its `content`. `None`: the file says nothing; `Some(None)`: it says none.
    pub fn token(&self, key: &str) -> Result<Option<Option<String>>, GenerateError> {
        match self.map.get(key) {
            None => Ok(None),
            Some(Value::Null) => Ok(Some(None)),
            Some(value) => Ok(Some(Some(added_token(key, value)?["content"].as_str().unwrap_or_default().to_owned()))),
        }
    }
}

fn bad_value(key: &str, value: &Value, expected: &str) -> GenerateError {
    let value: String = value.to_string().chars().take(60).collect();
    GenerateError::TokenizerFile {
        file: TOKENIZER_CONFIG.into(),
        reason: format!("`{key}` is {value}: it must be {expected}"),
    }
}

/// An added token as `tokenizer.json` writes it, without its id: of a string a special one, as transformers makes it.
pub(super) fn added_token(key: &str, value: &Value) -> Result<Value, GenerateError> {
    let flags = ["single_word", "lstrip", "rstrip", "normalized", "special"];
    let mut token = json!({ "content": value, "special": true });
    if let Value::Object(given) = value {
        token = json!({ "content": given.get("content") });
        // A special token of which nothing more is said; what stands in added_tokens_decoder says all.
        token["special"] = given.get("special").cloned().unwrap_or(Value::Bool(key != "added_tokens_decoder"));
        token["normalized"] = given.get("normalized").cloned().unwrap_or(Value::Bool(token["special"] != true));
        for flag in &flags[..3] {
            token[*flag] = given.get(*flag).cloned().unwrap_or(Value::Bool(false));
        }
    }
    if !token["content"].is_string() {
        return Err(bad_value(key, value, "a token: a string, or an object with `content`"));
    }
    for flag in flags {
        if token[flag].is_null() {
            token[flag] = Value::Bool(false);
        }
        if !token[flag].is_boolean() {
            return Err(bad_value(key, value, "a token with flags that are true or false"));
        }
    }
    Ok(token)
}
