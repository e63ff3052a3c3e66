//! Small checkpoints to be damaged: tensors that can be renamed, reshaped, retyped and removed, and a writer that checks nothing.

#![allow(dead_code)] // every test crate uses a part of it

use mamba_wgpu::model::{synthetic::Spec, Checkpoint, LoadError};
use safetensors::SafeTensors;
use serde_json::{json, Value};
use std::{borrow::Cow, collections::BTreeMap, fs, path::Path};

pub struct Tensor {
    pub name: String,
    /// As the header will say it, right or wrong.
    pub dtype: String,
    pub shape: Vec<usize>,
    pub data: Vec<u8>,
}

pub struct Model {
    pub config: Value,
    pub tensors: Vec<Tensor>,
    /// The header's `__metadata__`; null for none.
    pub metadata: Value,
}

impl Model {
    /// A good model of two layers with odd dimensions, in f32.
    pub fn tiny() -> Self {
        Self::new(&Spec::preset("tiny").unwrap())
    }

    pub fn new(spec: &Spec) -> Self {
        let mut bytes = Vec::new();
        spec.write_safetensors(&mut bytes, &mut |_, _| {}).unwrap();
        Self::read(spec.config_json().as_bytes(), &bytes)
    }

    /// What is in these files.
    pub fn read(config: &[u8], bytes: &[u8]) -> Self {
        let file = SafeTensors::deserialize(bytes).unwrap();
        let mut tensors: Vec<Tensor> = file
            .iter()
            .map(|(name, view)| Tensor {
                name: name.into(),
                dtype: view.dtype().to_string(),
                shape: view.shape().to_vec(),
                data: view.data().to_vec(),
            })
            .collect();
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        let (_, header) = SafeTensors::read_metadata(bytes).unwrap();
        let metadata = json!(header.metadata().as_ref().map(|m| m.iter().collect::<BTreeMap<_, _>>()));
        Self { config: serde_json::from_slice(config).unwrap(), tensors, metadata }
    }

    /// Sets a key of the metadata; null removes it.
    pub fn metadata(mut self, key: &str, value: Value) -> Self {
        let map = self.metadata.as_object_mut().unwrap();
        match value {
            Value::Null => map.remove(key),
            value => map.insert(key.into(), value),
        };
        self
    }

    /// Sets a key of the config; null removes it.
    pub fn config(mut self, key: &str, value: Value) -> Self {
        match value {
            Value::Null => self.config.as_object_mut().unwrap().remove(key),
            value => self.config.as_object_mut().unwrap().insert(key.into(), value),
        };
        self
    }

    /// Changes the one tensor whose name ends so.
    pub fn edit(mut self, end: &str, change: impl FnOnce(&mut Tensor)) -> Self {
        change(self.tensors.iter_mut().find(|t| t.name.ends_with(end)).unwrap());
        self
    }

    /// Removes all tensors whose names contain this.
    pub fn without(mut self, part: &str) -> Self {
        let before = self.tensors.len();
        self.tensors.retain(|t| !t.name.contains(part));
        assert!(self.tensors.len() < before, "nothing is called {part}");
        self
    }

    /// Renames by replacing part of every name.
    pub fn rename(mut self, from: &str, to: &str) -> Self {
        self.tensors.iter_mut().for_each(|t| t.name = t.name.replace(from, to));
        self
    }

    /// Adds an f32 tensor of one value.
    pub fn add(mut self, name: &str, shape: &[usize], value: f32) -> Self {
        let n = shape.iter().product::<usize>();
        let data = std::iter::repeat_n(value.to_le_bytes(), n).flatten().collect();
        self.tensors.push(Tensor { name: name.into(), dtype: "F32".into(), shape: shape.into(), data });
        self
    }

    /// Gives a tensor another shape, filled with 0.5.
    pub fn reshape(self, end: &str, shape: &[usize]) -> Self {
        self.edit(end, |t| {
            t.shape = shape.into();
            t.data = std::iter::repeat_n(0.5f32.to_le_bytes(), shape.iter().product()).flatten().collect();
        })
    }

    /// The mamba-ssm form: its names and its config.
    pub fn original(self) -> Self {
        let mut model = self.rename("embeddings.weight", "embedding.weight");
        let (d_model, n_layer) = (model.config["hidden_size"].clone(), model.config["num_hidden_layers"].clone());
        let c = &model.config;
        let ssm_cfg = json!({ "d_state": c["state_size"], "d_conv": c["conv_kernel"], "expand": c["expand"], "dt_rank": c["time_step_rank"] });
        model.config = json!({ "d_model": d_model, "n_layer": n_layer, "vocab_size": c["vocab_size"], "ssm_cfg": ssm_cfg,
            "rms_norm": true, "residual_in_fp32": true, "fused_add_norm": true, "pad_vocab_size_multiple": 8,
            "tie_embeddings": c["tie_word_embeddings"] });
        model
    }

    pub fn config_json(&self) -> Vec<u8> {
        self.config.to_string().into_bytes()
    }

    pub fn safetensors(&self) -> Vec<u8> {
        safetensors_with(&self.metadata, self.tensors.iter())
    }

    pub fn open(&self) -> Result<Checkpoint, LoadError> {
        Checkpoint::from_bytes(&self.config_json(), vec![Cow::Owned(self.safetensors())], None)
    }

    /// Writes config.json and model.safetensors.
    pub fn save(&self, folder: &Path) {
        fs::write(folder.join("config.json"), self.config_json()).unwrap();
        fs::write(folder.join("model.safetensors"), self.safetensors()).unwrap();
    }

    /// Writes two shards and their index. The index is returned, to be changed.
    pub fn save_sharded(&self, folder: &Path) -> Value {
        fs::write(folder.join("config.json"), self.config_json()).unwrap();
        let (first, second) = self.tensors.split_at(self.tensors.len() / 2);
        let mut map = serde_json::Map::new();
        for (i, tensors) in [first, second].into_iter().enumerate() {
            let name = format!("model-{:05}-of-00002.safetensors", i + 1);
            map.extend(tensors.iter().map(|t| (t.name.clone(), json!(name))));
            fs::write(folder.join(name), safetensors_with(&self.metadata, tensors.iter())).unwrap();
        }
        let index = json!({ "metadata": { "total_size": 1 }, "weight_map": map });
        write_index(folder, &index);
        index
    }
}

pub fn write_index(folder: &Path, index: &Value) {
    fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

/// A file of these tensors, the same name twice if asked to.
pub fn safetensors_of<'a>(tensors: impl Iterator<Item = &'a Tensor>) -> Vec<u8> {
    safetensors_with(&Value::Null, tensors)
}

fn safetensors_with<'a>(metadata: &Value, tensors: impl Iterator<Item = &'a Tensor>) -> Vec<u8> {
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    if !metadata.is_null() {
        entries.push(format!("\"__metadata__\":{metadata}"));
    }
    for t in tensors {
        let entry =
            json!({ "dtype": t.dtype, "shape": t.shape, "data_offsets": [data.len(), data.len() + t.data.len()] });
        entries.push(format!("{}:{entry}", json!(t.name)));
        data.extend(&t.data);
    }
    with_header(&format!("{{{}}}", entries.join(",")), &data)
}

pub fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}
