//! What to do about a model without a tokenizer that can be read.

use super::Checkpoint;
use crate::checkpoint::Arch;
use std::path::Path;

/// Files of tokenizers in other formats -> what they are.
const OTHERS: [(&str, &str); 7] = [
    ("tokenizer.model", "a SentencePiece model"),
    ("spiece.model", "a SentencePiece model"),
    ("sentencepiece.bpe.model", "a SentencePiece model"),
    ("tekken.json", "Mistral's own format"),
    ("qwen.tiktoken", "a tiktoken vocabulary"),
    ("vocab.txt", "a WordPiece vocabulary"),
    ("vocab.json", "half of a byte-level BPE, whose merges.txt is missing"),
];

/// Entries of GPT-NeoX's vocabulary, as mamba-ssm's models have them, padded or not.
const NEOX: std::ops::RangeInclusive<usize> = 50254..=50304;

impl Checkpoint {
    /// Why text cannot be turned into tokens, and what to do: by the tokenizer files that lie beside the weights, or else by which
    /// model it seems to be.
    pub fn tokenizer_advice(&self) -> String {
        let vocab_size = self.config().vocab_size;
        let folder = self.folder();
        if let Some(task) = folder.as_deref().and_then(task_of) {
            return format!(
                "it was trained on the task {task}, whose tokens stand for no text; `mamba-wgpu eval` asks it that task, and \
                 `logits --tokens` takes tokens"
            );
        }
        let there = |name: &str| folder.as_ref().is_some_and(|folder| exists(folder, name));
        let whole = there("merges.txt");
        let other = OTHERS.iter().find(|(name, _)| there(name) && !(whole && *name == "vocab.json"));
        if let Some((name, what)) = other {
            let folder = folder.unwrap_or_default();
            if *name == "vocab.json" {
                return format!("{name} is there, but {what}: add it, or the tokenizer.json");
            }
            return format!(
                "{name} is there, but {what} is not read. Convert it once, in Python:\n\n    \
                 pip install transformers sentencepiece protobuf tiktoken\n    \
                 python3 -c 'from transformers import AutoTokenizer; \
                 AutoTokenizer.from_pretrained({folder:?}, use_fast=True).save_pretrained({folder:?})'\n"
            );
        }
        let from = match self.config().arch {
            _ if NEOX.contains(&vocab_size) => {
                "models published by mamba-ssm use EleutherAI/gpt-neox-20b's: put that file there".into()
            }
            Arch::FalconMamba => "put that of tiiuae/falcon-mamba-7b there, if the model comes from it".into(),
            _ => {
                format!("put the file of the model that this one was made from there: one with {vocab_size} entries or a few less")
            }
        };
        format!("there is no tokenizer.json beside the weights ({from})")
    }

    /// The folder of the weights, if they come from one.
    fn folder(&self) -> Option<String> {
        let file = Path::new(self.files().next()?);
        Some(file.parent()?.display().to_string())
    }
}

/// The task of the run that a folder is a checkpoint of, unless that was a text: by the settings that the run keeps (train/saved.rs).
fn task_of(folder: &str) -> Option<String> {
    let folder = Path::new(folder);
    let read = |folder: &Path| std::fs::read(folder.join("training.json")).ok();
    let settings: serde_json::Value = serde_json::from_slice(&read(folder).or_else(|| read(folder.parent()?))?).ok()?;
    let kind = settings.get("task")?.get("kind")?.as_str().filter(|kind| *kind != "text")?;
    Some(kind.to_owned())
}

fn exists(folder: &str, name: &str) -> bool {
    Path::new(folder).join(name).is_file()
}
