//! Checkpoints with LoRA adapters.

use super::Checkpoint;
use crate::checkpoint::{Adapter, AdapterInfo, LoadError};

impl Checkpoint {
    /// The adapters that are merged into [`Checkpoint::weights`].
    pub fn adapters(&self) -> impl Iterator<Item = &AdapterInfo> {
        self.adapters.list()
    }

    /// Merges a LoRA adapter, weighed with `scale` (1: as it was trained): each W becomes W + scale (alpha / r) B A, computed in f32 as
    /// the rows are read and rounded to the format that the base has. Several adapters add up.
    ///
    /// # Errors
    /// Tensors that are no plain LoRA, for no weight of this model, or of another shape; a second adapter with the same whole tensor.
    pub fn with_adapter(mut self, adapter: Adapter, scale: f32) -> Result<Self, LoadError> {
        if adapter.is_empty() {
            self.warnings
                .push(format!("{}: adapter_config.json without an adapter's weights: ignored", adapter.source()));
            return Ok(self);
        }
        let info = self.adapters.add(adapter, scale, (&self.names, &self.layout, &self.table))?;
        self.notes.push(format!("merged {info}"));
        if self.config.tie_embeddings && self.adapters.unties(&self.layout) {
            self.config.tie_embeddings = false;
            self.untie_config();
        }
        Ok(self)
    }

    /// Says in config.json that the head is a tensor of its own, for whoever writes the merged model.
    fn untie_config(&mut self) {
        let json = self.config_json.as_deref().map(serde_json::from_slice::<serde_json::Value>);
        let Some(Ok(serde_json::Value::Object(mut map))) = json else { return };
        let key = if map.contains_key("tie_embeddings") { "tie_embeddings" } else { "tie_word_embeddings" };
        map.insert(key.into(), false.into());
        self.config_json = Some(serde_json::Value::Object(map).to_string().into_bytes().into());
    }
}
