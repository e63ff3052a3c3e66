//! A model's tensors on the host, by Hugging Face's names.

use crate::model::{LoadError, ModelWeights, TensorView};

/// A tensor on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedTensor {
    pub name: String,
    pub shape: Vec<usize>,
    /// Row-major.
    pub values: Vec<f32>,
}

/// Epsilon of the layers' norms and the last one, as published models have it.
pub(super) const NORM_EPS: f32 = 1e-5;

/// A model's weights in f32 under Hugging Face's names, whatever they are called and stored as.
///
/// # Errors
/// Weights that are NaN or infinite.
pub(super) fn named_tensors(weights: &ModelWeights<'_>) -> Result<Vec<NamedTensor>, LoadError> {
    let mut tensors = Vec::new();
    let mut take = |name: String, view: &TensorView<'_>| -> Result<(), LoadError> {
        tensors.push(NamedTensor { name, shape: view.shape.to_vec(), values: view.to_f32()? });
        Ok(())
    };
    take("backbone.embeddings.weight".into(), &weights.embedding)?;
    for (i, w) in weights.layers.iter().enumerate() {
        let mut all = Vec::new();
        w.for_each(&mut |name, view| all.push((name, view)));
        for (name, view) in all {
            take(format!("backbone.layers.{i}.{name}"), view)?;
        }
    }
    take("backbone.norm_f.weight".into(), &weights.norm_f)?;
    if let Some(head) = &weights.lm_head {
        take("lm_head.weight".into(), head)?;
    }
    Ok(tensors)
}
