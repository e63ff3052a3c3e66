//! adapter_config.json: what an adapter is weighed with, and whether it is plain LoRA.

use crate::checkpoint::{config::shown, config::RawConfig, LoadError};
use regex::Regex;
use serde_json::Value;

/// PEFT's LoraConfig, as far as it says what to compute.
pub(super) struct Config {
    file: String,
    rank: Option<u64>,
    pub alpha: f32,
    rslora: bool,
    alpha_pattern: Vec<(String, f32)>,
    rank_pattern: Vec<(String, f32)>,
    modules_to_save: Vec<String>,
}

impl Config {
    pub fn parse(file: &str, json: &[u8]) -> Result<Self, LoadError> {
        let raw = RawConfig::parse(file, json)?;
        let unsupported = |key: &str, reason| match raw.get(key) {
            None => Ok(()),
            Some(value) => {
                Err(LoadError::UnsupportedOption { file: file.into(), key: key.into(), value: shown(value), reason })
            }
        };
        if raw.get("peft_type").and_then(Value::as_str).is_none_or(|kind| !kind.eq_ignore_ascii_case("LORA")) {
            unsupported("peft_type", "only LORA is applied")?;
        }
        // PEFT changes the base's weights for these before it adds the adapter.
        let plain = |v: &Value| v.is_boolean() || matches!(v.as_str(), Some("gaussian" | "eva" | "orthogonal"));
        if raw.get("init_lora_weights").is_some_and(|value| !plain(value)) {
            unsupported(
                "init_lora_weights",
                "it changes the base model too: save the adapter converted to plain LoRA",
            )?;
        }
        for (key, reason) in [
            ("use_dora", "DoRA: only plain LoRA is applied"),
            ("use_qalora", "QA-LoRA: only plain LoRA is applied"),
            ("use_bdlora", "BD-LoRA: only plain LoRA is applied"),
            ("lora_bias", "biases on lora_B: they are not applied"),
            ("alora_invocation_tokens", "an activated LoRA: it is for a part of the text only"),
            ("layer_replication", "layers that are repeated"),
            ("target_parameters", "LoRA on parameters that belong to no module"),
            ("trainable_token_indices", "trained tokens: they are not applied"),
            ("velora_config", "VeLoRA: only plain LoRA is applied"),
            ("monteclora_config", "MonteCLoRA: only plain LoRA is applied"),
            ("kasa_config", "KaSA: only plain LoRA is applied"),
            ("arrow_config", "Arrow: only plain LoRA is applied"),
        ] {
            let off = |v: &Value| v.as_bool() == Some(false) || v.as_array().is_some_and(Vec::is_empty);
            if raw.get(key).is_some_and(|value| !off(value)) {
                unsupported(key, reason)?;
            }
        }
        let number = |key: &str, value: &Value| match value.as_f64().filter(|x| x.is_finite()) {
            Some(x) => Ok(x as f32),
            None => Err(raw.bad_value(key, value, "it must be a number")),
        };
        let pattern = |key: &str| match raw.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Object(map)) => map.iter().map(|(k, v)| Ok((k.clone(), number(key, v)?))).collect(),
            Some(value) => Err(raw.bad_value(key, value, "it must be an object of numbers")),
        };
        let alpha = raw.get("lora_alpha").ok_or_else(|| LoadError::ConfigValue {
            file: file.into(),
            key: "lora_alpha".into(),
            value: "missing".into(),
            expected: "without it nothing says what the adapter is weighed with",
        })?;
        let names = raw.get("modules_to_save").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        Ok(Self {
            file: file.into(),
            rank: raw.get("r").and_then(Value::as_u64),
            alpha: number("lora_alpha", alpha)?,
            rslora: raw.flag("use_rslora")?.unwrap_or(false),
            alpha_pattern: pattern("alpha_pattern")?,
            rank_pattern: pattern("rank_pattern")?,
            modules_to_save: names.iter().filter_map(|name| Some(name.as_str()?.to_owned())).collect(),
        })
    }

    /// What B A is multiplied with for a module (`backbone.layers.0.mixer.in_proj`): alpha / r, or alpha / sqrt(r) for rsLoRA.
    pub fn scaling(&self, module: &str, rank: usize) -> Result<f32, LoadError> {
        let expected = self.of_pattern("rank_pattern", &self.rank_pattern, module)?;
        if let Some(expected) = expected.map(|r| r as u64).or(self.rank).filter(|&r| r != rank as u64) {
            return Err(LoadError::Contradiction {
                file: self.file.clone(),
                key: "r".into(),
                value: expected.to_string(),
                found: format!("`{module}` has an adapter of rank {rank}"),
            });
        }
        let alpha = self.of_pattern("alpha_pattern", &self.alpha_pattern, module)?.unwrap_or(self.alpha);
        Ok(alpha / if self.rslora { (rank as f32).sqrt() } else { rank as f32 })
    }

    /// The value whose key, a regular expression, matches a module's name or its end, as PEFT matches them.
    fn of_pattern(&self, key: &str, patterns: &[(String, f32)], module: &str) -> Result<Option<f32>, LoadError> {
        let unsupported = |pattern: &str, reason| LoadError::UnsupportedOption {
            file: self.file.clone(),
            key: key.into(),
            value: format!("{pattern:?}"),
            reason,
        };
        let mut found = None;
        for (pattern, value) in patterns {
            let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{pattern})$"));
            let regex =
                regex.map_err(|_| unsupported(pattern, "a regular expression of a kind that is not understood"))?;
            if !regex.is_match(module) {
                continue;
            }
            // PEFT takes the first in the file's order, which is not kept here.
            if found.is_some_and(|other| other != *value) {
                return Err(unsupported(pattern, "several patterns that match one module and differ"));
            }
            found = Some(*value);
        }
        Ok(found)
    }

    /// A module that the config says is stored whole and of which no tensor is among `whole`.
    pub fn not_saved<'a>(&self, whole: impl Iterator<Item = &'a str> + Clone) -> Result<(), LoadError> {
        let is_of = |name: &str, module: &str| name.split('.').any(|part| part == module) || name.contains(module);
        match self.modules_to_save.iter().find(|module| !whole.clone().any(|name| is_of(name, module))) {
            None => Ok(()),
            Some(module) => Err(LoadError::Contradiction {
                file: self.file.clone(),
                key: "modules_to_save".into(),
                value: format!("{module:?}"),
                found: "the adapter holds no such tensor".into(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Config, LoadError> {
        Config::parse("adapter_config.json", json.as_bytes())
    }

    #[test]
    fn scalings() {
        let of = |json: &str, module: &str, rank| parse(json).unwrap().scaling(module, rank);
        let plain = r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 8}"#;
        assert_eq!(of(plain, "m", 4).unwrap(), 2.0);
        assert!(of(plain, "m", 3).unwrap_err().to_string().contains("`r` is 4"));
        let rs = r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_rslora": true,
                     "alpha_pattern": {"layers.1.mixer.in_proj": 6, "^x.y": 10}, "rank_pattern": {"in_proj": 9}}"#;
        assert_eq!(of(rs, "backbone.layers.1.mixer.in_proj", 9).unwrap(), 2.0);
        assert_eq!(of(rs, "backbone.layers.11.mixer.in_proj", 9).unwrap(), 8.0 / 3.0);
        assert_eq!(of(rs, "x.y", 4).unwrap(), 5.0);
        assert_eq!(of(rs, "z.x.y", 4).unwrap(), 4.0);
        let twice =
            r#"{"peft_type": "LORA", "r": 1, "lora_alpha": 8, "alpha_pattern": {"in_proj": 6, "mixer.in_proj": 7}}"#;
        assert!(of(twice, "mixer.in_proj", 1).is_err());
        let look = r#"{"peft_type": "LORA", "r": 1, "lora_alpha": 8, "alpha_pattern": {"(?=a)b": 6}}"#;
        assert!(of(look, "b", 1).unwrap_err().to_string().contains("alpha_pattern"));
    }

    #[test]
    fn what_is_no_plain_lora_is_named() {
        for (key, value) in [
            ("peft_type", "\"IA3\""),
            ("use_dora", "true"),
            ("lora_bias", "true"),
            ("init_lora_weights", "\"pissa_niter_4\""),
            ("init_lora_weights", "\"loftq\""),
            ("trainable_token_indices", "[1]"),
            ("layer_replication", "[[0,1]]"),
        ] {
            let kind = if key == "peft_type" { "" } else { "\"peft_type\": \"LORA\", " };
            let error = parse(&format!("{{{kind}\"r\": 4, \"lora_alpha\": 8, \"{key}\": {value}}}")).err().unwrap();
            assert!(error.to_string().contains(&format!("`{key}` is {value}")), "{error}");
        }
        let error = parse(r#"{"peft_type": "LORA", "r": 4}"#).err().unwrap();
        assert!(error.to_string().contains("lora_alpha"), "{error}");
        assert!(parse(r#"{"peft_type": "LORA", "lora_alpha": 1, "use_dora": false, "init_lora_weights": "gaussian"}"#)
            .is_ok());
    }
}
