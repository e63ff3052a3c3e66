//! config.json as it is stored: parsing, and typed access to its keys.

use crate::checkpoint::sniff::{sniff, trim_bom};
use crate::checkpoint::LoadError;
use serde_json::{Map, Value};
use std::borrow::Cow;

/// No config is anywhere near: what is larger is another file.
const MAX_BYTES: usize = 16 << 20;

/// A parsed config.json.
pub(in crate::checkpoint) struct RawConfig {
    pub file: String,
    pub(super) map: Map<String, Value>,
}

impl RawConfig {
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Self, LoadError> {
        if bytes.is_empty() {
            return Err(LoadError::EmptyFile { file: file.into() });
        }
        let bad = |reason: String| match sniff(bytes) {
            Some((what, advice)) => LoadError::WrongFile { file: file.into(), what, expected: "a JSON object", advice },
            None => LoadError::ConfigSyntax { file: file.into(), reason },
        };
        if bytes.len() > MAX_BYTES {
            return Err(bad(format!("{} bytes, too large for a model's configuration", bytes.len())));
        }
        let cut = |e: &serde_json::Error| if e.is_eof() { ": the file is cut short, download it again" } else { "" };
        let json = quote_non_finite(trim_bom(bytes));
        match serde_json::from_slice(&json).map_err(|e| bad(format!("{e}{}", cut(&e))))? {
            // No model's configuration has these keys and no other.
            Value::Object(map) if map.len() <= 4 && map.contains_key("error") => {
                Err(bad("a server's error message".into()))
            }
            Value::Object(map) => Ok(Self { file: file.into(), map }),
            _ => Err(bad("a value of another kind".into())),
        }
    }

    /// The value at a key, or inside an object's: `ssm_cfg.d_state`. A null counts as absent, as in Python's.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let value = match key.split_once('.') {
            None => self.map.get(key),
            Some((object, key)) => self.map.get(object).and_then(|o| o.get(key)),
        };
        value.filter(|v| !v.is_null())
    }

    /// Whether a key is there, be it null.
    pub fn says(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    pub fn bad_value(&self, key: &str, value: &Value, expected: &'static str) -> LoadError {
        LoadError::ConfigValue { file: self.file.clone(), key: key.into(), value: shown(value), expected }
    }

    /// The config and the tensors, or two of its keys, disagree.
    pub fn contradiction(&self, key: &str, value: impl Into<String>, found: impl Into<String>) -> LoadError {
        LoadError::Contradiction { file: self.file.clone(), key: key.into(), value: value.into(), found: found.into() }
    }

    pub fn string(&self, key: &str) -> Result<Option<&str>, LoadError> {
        let text = |v: &'_ Value| self.bad_value(key, v, "it must be a string");
        self.get(key).map(|v| v.as_str().ok_or_else(|| text(v))).transpose()
    }

    pub fn object(&self, key: &str) -> Result<Option<&Map<String, Value>>, LoadError> {
        let object = |v: &'_ Value| self.bad_value(key, v, "it must be an object");
        self.get(key).map(|v| v.as_object().ok_or_else(|| object(v))).transpose()
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>, LoadError> {
        let flag = |v: &Value| v.as_bool().ok_or_else(|| self.bad_value(key, v, "it must be true or false"));
        self.get(key).map(flag).transpose()
    }

    pub fn epsilon(&self, key: &str, default: f32) -> Result<f32, LoadError> {
        let Some(value) = self.get(key) else {
            return Ok(default);
        };
        match value.as_f64().map(|x| x as f32) {
            Some(x) if x.is_finite() && x > 0.0 => Ok(x),
            _ => Err(self.bad_value(key, value, "it must be a finite number above 0")),
        }
    }

    /// Token ids of a key that holds none, one or a list. Negative ones mean "none" in some configs.
    pub fn tokens(&self, key: &str, default: Option<u32>) -> Result<Vec<u32>, LoadError> {
        let one = |v: &Value| match v.as_i64() {
            Some(id) if id < 0 => Ok(None),
            Some(id) => u32::try_from(id).map(Some).map_err(|_| self.bad_value(key, v, "too large for a token id")),
            None => Err(self.bad_value(key, v, "it must be a token id or a list of them")),
        };
        match self.map.get(key) {
            // Hugging Face's configuration classes have a default; mamba-ssm's config has no such key.
            None if self.is_hugging_face() || (self.says("architectures") && !self.says("ssm_cfg")) => {
                Ok(default.into_iter().collect())
            }
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(list)) => list.iter().filter_map(|v| one(v).transpose()).collect(),
            Some(value) => Ok(one(value)?.into_iter().collect()),
        }
    }

    /// Whether its keys are mamba-ssm's: it has their object, and no family of transformers'.
    pub fn is_mamba_ssm(&self) -> bool {
        self.map.contains_key("ssm_cfg") && !self.is_hugging_face()
    }

    fn is_hugging_face(&self) -> bool {
        self.map.contains_key("model_type")
    }
}

/// A JSON value for a message, cut to a length that a message can have.
pub(in crate::checkpoint) fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// Python writes `Infinity`, `-Infinity` and `NaN`, which are not JSON (`time_step_limit: [0.0, Infinity]` in published
/// configs). Outside strings they become strings, so that a key that must be a number still refuses them.
fn quote_non_finite(json: &[u8]) -> Cow<'_, [u8]> {
    const WORDS: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];
    let mut out: Option<Vec<u8>> = None;
    let (mut i, mut in_string) = (0, false);
    while i < json.len() {
        let byte = json[i];
        let mut taken = 1;
        let mut word = None;
        if in_string {
            match byte {
                b'\\' => taken = 2.min(json.len() - i),
                b'"' => in_string = false,
                _ => {}
            }
        } else if byte == b'"' {
            in_string = true;
        } else if let Some(found) = WORDS.into_iter().find(|w| json[i..].starts_with(w)) {
            word = Some(found);
            taken = found.len();
        }
        match (word, &mut out) {
            (Some(word), out) => {
                let out = out.get_or_insert_with(|| json[..i].to_vec());
                out.push(b'"');
                out.extend(word);
                out.push(b'"');
            }
            (None, Some(out)) => out.extend(&json[i..i + taken]),
            (None, None) => {}
        }
        i += taken;
    }
    out.map_or(Cow::Borrowed(json), Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn non_finite_numbers_are_quoted_outside_strings_only() {
        let text = r#"{"a": [0.0, Infinity], "b": -Infinity, "c": NaN, "NaN": "x \" Infinity \\", "d": "NaN"}"#;
        let value: Value = serde_json::from_slice(&quote_non_finite(text.as_bytes())).unwrap();
        assert_eq!(value["a"][1], "Infinity");
        assert_eq!(value["b"], "-Infinity");
        assert_eq!(value["c"], "NaN");
        assert_eq!(value["NaN"], "x \" Infinity \\");
        assert_eq!(value["d"], "NaN");
        assert!(matches!(quote_non_finite(b"{}"), Cow::Borrowed(_)));
        assert_eq!(&*quote_non_finite(b"\"\\"), b"\"\\");
    }
}
