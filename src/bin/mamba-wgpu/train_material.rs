//! What `train` learns from: a task's examples, or a text with its tokenizer.

use std::path::Path;
use std::sync::Arc;

use anyhow::{anyhow, Context};
use mamba_wgpu::generate::Tokenizer;
use mamba_wgpu::model::{Checkpoint, GenerationConfig, LoadError, Sidecars};
use mamba_wgpu::train::tasks::{train_tokenizer, TextData};
use mamba_wgpu::train::{Data, Origin, Settings, Task, TextId, TrainError};
use mamba_wgpu::Error;

use crate::common::read_text;
use crate::errors::misuse;
use crate::train_args::Args;

/// What a run learns from and is validated on.
pub struct Material {
    pub data: Arc<dyn Data>,
    pub validation: Option<TextData>,
    /// What goes along with the model: the tokenizer, and with --from all that was beside it.
    pub sidecars: Sidecars,
    /// The token before a text that is validated on.
    pub beginning: u32,
}

impl Args {
    /// Reads the texts; trains a tokenizer where none is given. The vocabulary's size becomes the tokenizer's, unless there is a
    /// model to begin with, `from`, whose tokenizer is taken.
    pub fn material(
        &self,
        settings: &mut Settings,
        resumed: Option<&Path>,
        from: Option<&Checkpoint>,
    ) -> anyhow::Result<Material> {
        let Task::Text { length, vocab_size } = &mut settings.task else {
            for (flag, given) in
                [("text", &self.text), ("validation-text", &self.validation_text), ("tokenizer", &self.tokenizer)]
            {
                if given.is_some() {
                    return Err(misuse(format!("--{flag}: it goes with --task text only")));
                }
            }
            let (data, sidecars) = (Arc::new(settings.task.clone()), self.sidecars(resumed, from)?);
            return Ok(Material { data, validation: None, sidecars, beginning: 0 });
        };
        let read = |flag: &str, path: &Path| -> anyhow::Result<String> {
            read_text(&format!("--{flag} {}", path.display()), path)
        };
        if self.stop_at_accuracy.is_some() && self.validation_text.is_none() {
            return Err(misuse("--stop-at-accuracy: the task text needs --validation-text for it"));
        }
        let path =
            self.text.as_deref().ok_or_else(|| misuse("--text is needed: the task text is trained on a file"))?;
        let text = read("text", path)?;
        let validation_text = match &self.validation_text {
            Some(path) => Some((path, read("validation-text", path)?)),
            None => None,
        };
        let known = |path: &Path, text: &str| TextId::of(&path.display().to_string(), text);
        let now = (known(path, &text), validation_text.as_ref().map(|(path, text)| known(path, text)));
        if resumed.is_none() {
            (settings.text, settings.validation_text) = (Some(now.0), now.1);
        } else {
            let other = |error: TrainError| misuse(error.to_string());
            match &settings.text {
                Some(began) => began.check("--text", &now.0).map_err(other)?,
                None => {
                    eprintln!("warning: --text: the run does not say which text it began with, so this may be another")
                }
            }
            match (&settings.validation_text, &now.1) {
                (Some(began), Some(now)) => began.check("--validation-text", now).map_err(other)?,
                (Some(began), None) => {
                    eprintln!("warning: nothing is validated: this run began with --validation-text {began}");
                }
                (None, _) => {}
            }
        }
        let mut sidecars = self.sidecars(resumed, from)?;
        match (&self.tokenizer, resumed.is_some() || from.is_some()) {
            (Some(_), _) if resumed.is_some() => {
                return Err(misuse("--tokenizer: a run that is resumed has its own; leave it out"));
            }
            (Some(path), _) => {
                let json = std::fs::read(path).with_context(|| format!("--tokenizer {}", path.display()))?;
                sidecars = sidecars.with_tokenizer(json);
            }
            (None, true) => {}
            (None, false) => {
                let json = train_tokenizer(&text, *vocab_size)
                    .map_err(|error| Error::from(TrainError::from(error)))
                    .with_context(|| format!("--text {}", path.display()))?;
                sidecars = sidecars.with_tokenizer(json);
            }
        }
        let open = |vocab_size| -> anyhow::Result<Tokenizer> {
            let name = || match (&self.tokenizer, from) {
                (Some(path), _) => format!("--tokenizer {}", path.display()),
                (None, Some(model)) => model.source().to_owned(),
                (None, None) => resumed.unwrap_or(path).display().to_string(),
            };
            let tokenizer = Tokenizer::from_sidecars(&sidecars, vocab_size).map_err(Error::from).with_context(name)?;
            tokenizer.ok_or_else(|| match resumed {
                Some(checkpoint) => anyhow!("{}: the checkpoint's tokenizer is gone", checkpoint.display()),
                None => misuse("--tokenizer is needed: the model of --from has none"),
            })
        };
        if resumed.is_none() && from.is_none() {
            *vocab_size = open(usize::MAX)?.vocab_size();
        }
        let tokenizer = open(*vocab_size)?;
        let tokens = |name: &Path, text: &str| {
            TextData::new(&name.display().to_string(), text, &tokenizer, *length)
                .map_err(TrainError::from)
                .map_err(Error::from)
        };
        let data = tokens(path, &text)?;
        let validation = validation_text.map(|(path, text)| tokens(path, &text)).transpose()?;
        eprintln!(
            "mamba-wgpu: {} tokens to train on, {} to validate on, a vocabulary of {}",
            data.tokens().len(),
            validation.as_ref().map_or(0, |v| v.tokens().len()),
            *vocab_size
        );
        let beginning = beginning(&tokenizer, &sidecars, settings.origin.as_ref()).map_err(Error::from)?;
        Ok(Material { data: Arc::new(data), validation, sidecars, beginning })
    }

    /// What is beside the model that a run begins with, or goes on from.
    fn sidecars(&self, resumed: Option<&Path>, from: Option<&Checkpoint>) -> anyhow::Result<Sidecars> {
        Ok(match (resumed, from) {
            (Some(checkpoint), _) => Sidecars::read(checkpoint).map_err(Error::from)?,
            (None, Some(model)) => model.sidecars().clone(),
            (None, None) => Sidecars::default(),
        })
    }
}

/// The token before a text, as `mamba-wgpu score` puts it before one for the checkpoints of the run.
fn beginning(tokenizer: &Tokenizer, sidecars: &Sidecars, origin: Option<&Origin>) -> Result<u32, LoadError> {
    let stated = GenerationConfig::of(sidecars, tokenizer.model_vocab_size())?;
    // Models from nothing have 0 for both (Spec::config_json).
    let (bos, eos) = origin.map_or((Some(0), &[0][..]), |origin| (origin.bos_token_id, &origin.eos_token_id[..]));
    let eos = stated.eos_token_id.as_deref().unwrap_or(eos);
    let tokenizer = tokenizer.clone().with_ends(stated.bos_token_id.or(bos), eos);
    Ok(tokenizer.beginning_of_text().unwrap_or(0))
}
