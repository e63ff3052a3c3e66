//! generation_config.json: where a text ends, and how its publishers would have it drawn.

use super::config::{shown, RawConfig};
use super::sidecars::{Sidecars, GENERATION_CONFIG};
use super::LoadError;
use crate::error::GenerateError;
use crate::settings::{GenerationSettings, SamplingParams};
use serde_json::{Map, Value};

/// What a model's generation_config.json states; nothing where there is no such file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationConfig {
    /// Tokens that end a text.
    pub eos_token_id: Option<Vec<u32>>,
    pub bos_token_id: Option<u32>,
    /// How to draw. `do_sample: false` is a temperature of 0, as transformers has it; `max_length`, which counts the prompt, is
    /// not taken.
    pub settings: GenerationSettings,
    /// The keys that are taken, with their values.
    stated: Map<String, Value>,
}

/// Keys that change the text and are not implemented, with the numbers that mean "off".
const UNSUPPORTED: [(&str, f64); 17] = [
    ("num_beams", 1.0),
    ("num_beam_groups", 1.0),
    ("typical_p", 1.0),
    ("top_h", 1.0),
    ("epsilon_cutoff", 0.0),
    ("eta_cutoff", 0.0),
    ("penalty_alpha", 0.0),
    ("guidance_scale", 1.0),
    ("no_repeat_ngram_size", 0.0),
    ("min_length", 0.0),
    ("min_new_tokens", 0.0),
    ("bad_words_ids", 0.0),
    ("suppress_tokens", 0.0),
    ("begin_suppress_tokens", 0.0),
    ("sequence_bias", 0.0),
    ("forced_bos_token_id", -1.0),
    ("forced_eos_token_id", -1.0),
];

impl GenerationConfig {
    /// The keys that were taken, with their values as the file has them.
    pub fn stated(&self) -> &Map<String, Value> {
        &self.stated
    }

    /// Of files that are in memory, for a model of so many tokens, whose doubtful values were told when they were opened.
    ///
    /// # Errors
    /// As for [`Checkpoint::open`](super::Checkpoint).
    pub fn of(sidecars: &Sidecars, vocab_size: usize) -> Result<Self, LoadError> {
        let mut config = Self::read("memory", sidecars, &mut Vec::new())?;
        config.keep_below("memory", vocab_size, &mut Vec::new());
        Ok(config)
    }

    /// Leaves out tokens that a model of so many does not have.
    pub(crate) fn keep_below(&mut self, folder: &str, vocab_size: usize, notes: &mut Vec<String>) {
        let file = format!("{folder}/{GENERATION_CONFIG}");
        let mut bos: Vec<u32> = self.bos_token_id.into_iter().collect();
        keep_below(&file, "bos_token_id", &mut bos, vocab_size, notes);
        self.bos_token_id = bos.first().copied();
        if let Some(eos) = &mut self.eos_token_id {
            keep_below(&file, "eos_token_id", eos, vocab_size, notes);
            self.stated.insert("eos_token_id".into(), Value::from(eos.clone()));
        }
        self.eos_token_id.take_if(|eos| eos.is_empty());
        for (key, none) in [("bos_token_id", bos.is_empty()), ("eos_token_id", self.eos_token_id.is_none())] {
            if none {
                self.stated.remove(key);
            }
        }
    }

    /// Reads the file, if there is one; `folder` is for messages. Sampling values that make no sense are left out with a warning: they
    /// are no more than defaults.
    ///
    /// # Errors
    /// What is no JSON object; tokens that are none.
    pub(crate) fn read(folder: &str, sidecars: &Sidecars, warnings: &mut Vec<String>) -> Result<Self, LoadError> {
        let Some(bytes) = sidecars.get(GENERATION_CONFIG) else { return Ok(Self::default()) };
        let raw = RawConfig::parse(&format!("{folder}/{GENERATION_CONFIG}"), bytes)?;
        let mut reader = Reader { raw: &raw, stated: Map::new(), warnings };
        let eos_token_id = reader.tokens("eos_token_id")?;
        let bos_token_id = reader.tokens("bos_token_id")?.and_then(|ids| ids.first().copied());
        let settings = reader.settings();
        reader.unsupported();
        let stated = reader.stated;
        Ok(Self { eos_token_id, bos_token_id, settings, stated })
    }
}

/// Leaves out tokens beyond a vocabulary, with a note: the model never writes one.
pub(super) fn keep_below(file: &str, key: &str, ids: &mut Vec<u32>, vocab_size: usize, notes: &mut Vec<String>) {
    let (kept, beyond): (Vec<u32>, Vec<u32>) = ids.iter().partition(|&&id| (id as usize) < vocab_size);
    if !beyond.is_empty() {
        let list = beyond.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        notes.push(format!("{file}: `{key}` names {list}, and the vocabulary has {vocab_size} entries: ignored"));
    }
    *ids = kept;
}

struct Reader<'a> {
    raw: &'a RawConfig,
    stated: Map<String, Value>,
    warnings: &'a mut Vec<String>,
}

impl Reader<'_> {
    /// Notes that a key was taken.
    fn took(&mut self, key: &str) {
        if let Some(value) = self.raw.get(key) {
            self.stated.insert(key.into(), value.clone());
        }
    }

    fn ignore(&mut self, key: &str, expected: &str) {
        let value = self.raw.get(key).map(shown).unwrap_or_default();
        self.warnings.push(format!("{}: `{key}` is {value}: ignored, it must be {expected}", self.raw.file));
    }

    /// None where the key is absent or null, or says "none" by a negative number.
    fn tokens(&mut self, key: &str) -> Result<Option<Vec<u32>>, LoadError> {
        let Some(value) = self.raw.get(key) else { return Ok(None) };
        let expected = "it must be a token id or a list of them";
        let mut ids = Vec::new();
        for one in value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice) {
            let id = whole(one).ok_or_else(|| self.raw.bad_value(key, value, expected))?;
            match u32::try_from(id) {
                Ok(id) => ids.push(id),
                Err(_) if id < 0 => {}
                Err(_) => return Err(self.raw.bad_value(key, value, "too large for a token id")),
            }
        }
        if ids.is_empty() {
            return Ok(None);
        }
        self.took(key);
        Ok(Some(ids))
    }

    /// A number that `SamplingParams` accepts when it is put in by `set`.
    fn number(&mut self, key: &str, set: impl Fn(&mut SamplingParams, f32)) -> Option<f32> {
        let value = self.raw.get(key)?;
        let mut params = SamplingParams::default();
        let checked = value.as_f64().map(|x| x as f32).map(|x| {
            set(&mut params, x);
            params.validate().map(|()| x)
        });
        match checked {
            Some(Ok(x)) => {
                self.took(key);
                return Some(x);
            }
            Some(Err(GenerateError::InvalidParameter { expected, .. })) => self.ignore(key, expected),
            _ => self.ignore(key, "a number"),
        }
        None
    }

    /// A whole number in a range.
    fn count(&mut self, key: &str, range: std::ops::RangeInclusive<i64>, expected: &str) -> Option<i64> {
        let value = self.raw.get(key)?;
        match whole(value).filter(|n| range.contains(n)) {
            Some(n) => {
                self.took(key);
                Some(n)
            }
            None => {
                self.ignore(key, expected);
                None
            }
        }
    }

    fn settings(&mut self) -> GenerationSettings {
        let most = i64::from(u32::MAX);
        let mut settings = GenerationSettings {
            max_tokens: self
                .count("max_new_tokens", 1..=most, "a whole number from 1 to 4294967295")
                .map(|n| n as usize),
            temperature: self.number("temperature", |params, x| params.temperature = x),
            top_k: self.count("top_k", 0..=most, "a whole number from 0 (all) to 4294967295").map(|n| n as u32),
            top_p: self.number("top_p", |params, x| params.top_p = x),
            min_p: self.number("min_p", |params, x| params.min_p = x),
            repetition_penalty: self.number("repetition_penalty", |params, x| params.repetition_penalty = x),
            stop: self.stop_strings(),
        };
        match self.raw.get("do_sample") {
            None => {}
            Some(Value::Bool(sample)) => {
                self.took("do_sample");
                if !sample {
                    settings.temperature = Some(0.0);
                }
            }
            Some(_) => self.ignore("do_sample", "true or false"),
        }
        settings
    }

    fn stop_strings(&mut self) -> Option<Vec<String>> {
        let strings: Option<Vec<String>> = match self.raw.get("stop_strings")? {
            Value::String(one) => Some(vec![one.clone()]),
            Value::Array(list) => list.iter().map(|one| one.as_str().map(str::to_owned)).collect(),
            _ => None,
        };
        let strings = strings.filter(|strings| strings.iter().all(|one| !one.is_empty()));
        match strings {
            Some(_) => self.took("stop_strings"),
            None => self.ignore("stop_strings", "a string or a list of them, none of them empty"),
        }
        strings
    }

    /// Says what a text will not be like.
    fn unsupported(&mut self) {
        for (key, off) in UNSUPPORTED {
            let Some(value) = self.raw.get(key) else { continue };
            let empty = value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty);
            if !empty && value.as_f64() != Some(off) {
                self.warnings.push(format!("{}: `{key}` is {}: not supported, ignored", self.raw.file, shown(value)));
            }
        }
    }
}

/// A whole number, also where it is written 14.0.
fn whole(value: &Value) -> Option<i64> {
    let float = || value.as_f64().filter(|x| x.fract() == 0.0 && x.abs() < 2f64.powi(53)).map(|x| x as i64);
    value.as_i64().or_else(float)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::borrow::Cow;

    fn read(json: &str) -> (Result<GenerationConfig, LoadError>, Vec<String>) {
        let mut sidecars = Sidecars::default();
        sidecars.insert(GENERATION_CONFIG, Cow::Owned(json.as_bytes().to_vec()));
        let mut warnings = Vec::new();
        let config = GenerationConfig::read("dir", &sidecars, &mut warnings);
        (config, warnings)
    }

    #[test]
    fn what_is_stated_is_taken_and_nothing_else() {
        let (config, warnings) = read(
            "\u{feff}{\"_from_model_config\": true, \"bos_token_id\": 0, \"eos_token_id\": [0, 14.0], \
             \"pad_token_id\": 3, \"max_length\": 20, \"num_beams\": 1, \"transformers_version\": \"5.0\"}",
        );
        let config = config.unwrap();
        assert_eq!((config.eos_token_id.as_deref(), config.bos_token_id), (Some(&[0, 14][..]), Some(0)));
        assert_eq!(config.settings, GenerationSettings::default());
        assert_eq!(config.stated().keys().collect::<Vec<_>>(), ["bos_token_id", "eos_token_id"]);
        assert!(warnings.is_empty(), "{warnings:?}");
        for none in ["{}", "{\"eos_token_id\": null}", "{\"eos_token_id\": -1}", "{\"eos_token_id\": []}"] {
            assert_eq!(read(none).0.unwrap().eos_token_id, None, "{none}");
        }
    }

    #[test]
    fn tokens_beyond_the_vocabulary_are_noted_and_left_out() {
        let left = |json: &str| {
            let (config, mut notes) = (read(json).0.unwrap(), Vec::new());
            let mut config = config;
            config.keep_below("dir", 15, &mut notes);
            (config.eos_token_id.clone(), config.bos_token_id, config.stated().len(), notes)
        };
        let (eos, bos, stated, notes) = left(r#"{"eos_token_id": [0, 15, 99], "bos_token_id": 15}"#);
        assert_eq!((eos, bos, stated), (Some(vec![0]), None, 1));
        assert_eq!(
            notes[0],
            "dir/generation_config.json: `bos_token_id` names 15, and the vocabulary has 15 entries: ignored"
        );
        assert!(notes.len() == 2 && notes[1].contains("names 15, 99,"), "{notes:?}");
        assert_eq!(left(r#"{"eos_token_id": 15, "bos_token_id": 14}"#).0, None);
        assert_eq!(left(r#"{"eos_token_id": 14, "bos_token_id": 14}"#), (Some(vec![14]), Some(14), 2, Vec::new()));
    }

    #[test]
    fn sampling_values_are_defaults() {
        let settings = |json| read(json).0.unwrap().settings;
        let all = settings(
            r#"{"do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.9, "min_p": 0.05,
                "repetition_penalty": 1.1, "max_new_tokens": 7, "stop_strings": "END"}"#,
        );
        assert_eq!((all.temperature, all.top_k, all.top_p, all.min_p), (Some(0.6), Some(20), Some(0.9), Some(0.05)));
        assert_eq!((all.repetition_penalty, all.max_tokens), (Some(1.1), Some(7)));
        assert_eq!(all.stop.unwrap(), ["END"]);
        assert_eq!(settings(r#"{"do_sample": false, "temperature": 0.6}"#).temperature, Some(0.0));
        assert_eq!(settings(r#"{"temperature": 0.6}"#).temperature, Some(0.6));
        assert_eq!(settings(r#"{"do_sample": true}"#).temperature, None);
    }

    #[test]
    fn what_makes_no_sense_is_said_by_key() {
        let bad = [
            ("temperature", "-1"),
            ("temperature", "\"hot\""),
            ("temperature", "NaN"),
            ("top_k", "-1"),
            ("top_k", "1.5"),
            ("top_k", "true"),
            ("top_p", "0"),
            ("top_p", "1.5"),
            ("min_p", "2"),
            ("repetition_penalty", "0"),
            ("max_new_tokens", "0"),
            ("max_new_tokens", "1e30"),
            ("do_sample", "\"yes\""),
            ("stop_strings", "[\"\"]"),
            ("num_beams", "4"),
            ("bad_words_ids", "[[3]]"),
        ];
        for (key, value) in bad {
            let (config, warnings) = read(&format!("{{\"{key}\": {value}}}"));
            assert_eq!(config.unwrap().settings, GenerationSettings::default(), "{key} {value}");
            let [warning] = &warnings[..] else { panic!("{key} {value}: {warnings:?}") };
            assert!(warning.contains("dir/generation_config.json") && warning.contains(key), "{warning}");
        }
        for bad in
            ["", "[]", "{", r#"{"eos_token_id": "x"}"#, r#"{"eos_token_id": [1.5]}"#, r#"{"bos_token_id": 1e12}"#]
        {
            let error = read(bad).0.unwrap_err().to_string();
            assert!(error.contains("dir/generation_config.json"), "{bad}: {error}");
        }
    }
}
