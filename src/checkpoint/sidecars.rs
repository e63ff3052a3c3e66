//! The small files beside the weights: how a model is to be used, and what only other programs read.

use std::borrow::Cow;
use std::collections::BTreeMap;

pub(crate) const TOKENIZER: &str = "tokenizer.json";
pub(crate) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
pub(crate) const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";
pub(crate) const ADDED_TOKENS: &str = "added_tokens.json";
pub(crate) const VOCAB: &str = "vocab.json";
pub(crate) const MERGES: &str = "merges.txt";
pub(crate) const GENERATION_CONFIG: &str = "generation_config.json";
/// A folder of further chat templates.
pub(crate) const CHAT_TEMPLATES: &str = "additional_chat_templates";

/// What makes a text tokens.
const TOKENIZER_FILES: [&str; 7] =
    [TOKENIZER, TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP, ADDED_TOKENS, VOCAB, MERGES, "tokenizer.model"];
const OTHERS: [&str; 3] = [GENERATION_CONFIG, "chat_template.jinja", "chat_template.json"];

/// The files that go along with a model whatever is done to its weights, by name: `generation_config.json`, the tokenizer's files
/// and chat templates (`additional_chat_templates/NAME.jinja` too).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sidecars(BTreeMap<String, Cow<'static, [u8]>>);

impl Sidecars {
    /// Their names, but for those in `additional_chat_templates`.
    pub fn names() -> impl Iterator<Item = &'static str> {
        TOKENIZER_FILES.into_iter().chain(OTHERS)
    }

    /// Whether a file of this name is one.
    pub fn takes(name: &str) -> bool {
        let template = name.strip_prefix(CHAT_TEMPLATES).and_then(|rest| rest.strip_prefix('/'));
        let plain = |name: &str| name.ends_with(".jinja") && !name.contains(['/', '\\', ':', '\0']);
        Self::names().any(|known| known == name) || template.is_some_and(plain)
    }

    /// Adds a file, unless [`takes`](Self::takes) says that it is none of these.
    pub fn insert(&mut self, name: &str, bytes: Cow<'static, [u8]>) {
        if Self::takes(name) {
            self.0.insert(name.into(), bytes);
        }
    }

    /// A file's bytes.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name).map(|bytes| &**bytes)
    }

    /// Names and bytes.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(name, bytes)| (name.as_str(), &**bytes))
    }

    /// With this `tokenizer.json` in place of all that makes up the tokenizer; chat templates, which are written in its tokens, go too.
    #[must_use]
    pub fn with_tokenizer(self, json: Vec<u8>) -> Self {
        let mut kept = Self::default();
        for (name, bytes) in self.0.into_iter().filter(|(name, _)| name == GENERATION_CONFIG) {
            kept.insert(&name, bytes);
        }
        kept.insert(TOKENIZER, Cow::Owned(json));
        kept
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_names_are_taken() {
        for name in ["tokenizer.json", "merges.txt", "chat_template.jinja", "additional_chat_templates/tool_use.jinja"]
        {
            assert!(Sidecars::takes(name), "{name}");
        }
        for name in [
            "config.json",
            "model.safetensors",
            "additional_chat_templates/../x.jinja",
            "additional_chat_templates/x.py",
        ] {
            assert!(!Sidecars::takes(name), "{name}");
        }
    }

    #[test]
    fn another_tokenizer_takes_the_place_of_all_of_the_old_one() {
        let mut sidecars = Sidecars::default();
        for name in Sidecars::names().chain(["config.json"]) {
            sidecars.insert(name, Cow::Borrowed(b"old"));
        }
        assert_eq!(sidecars.iter().count(), 10);
        let sidecars = sidecars.with_tokenizer(b"new".to_vec());
        let left: Vec<_> = sidecars.iter().collect();
        assert_eq!(left, [("generation_config.json", &b"old"[..]), ("tokenizer.json", &b"new"[..])]);
    }
}
