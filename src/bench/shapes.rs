//! The sizes that are measured.

use crate::checkpoint::synthetic::Spec;
use crate::model::blocks::Role;

/// The sizes measured. The default is what docs and records compare.
#[derive(Debug, Clone)]
pub struct Shapes {
    /// Bytes of the buffer that is copied, or what the device's limits allow of it.
    pub copy_bytes: u64,
    /// (channels, L)
    pub scan: Vec<(usize, usize)>,
    /// Tokens that go through the recurrence of each of `models` that is Mamba-2's.
    pub ssd: Vec<usize>,
    /// States of a channel.
    pub d_state: usize,
    /// (L, outputs, inputs)
    pub matmul: Vec<[usize; 3]>,
    /// (outputs, inputs)
    pub matvec: Vec<[usize; 2]>,
    /// Tokens of the vocabulary to choose from.
    pub sampling: Vec<usize>,
    /// By name; their `dtype` is of no matter, each is measured in f16 and f32.
    pub models: Vec<(String, Spec)>,
    /// Lengths of prompts to read.
    pub prefill: Vec<usize>,
    /// A length beyond what is usual, for one model in f16: time a token and memory should not depend on it.
    pub long: Option<(String, usize)>,
    /// Length of the prompt before decoding, and tokens then decoded.
    pub decode: (usize, usize),
    /// How many texts are decoded at once, a row each.
    pub batch: Vec<usize>,
    /// (channels, L), small ones first: by them slow adapters know when to stop.
    pub scan_backward: Vec<(usize, usize)>,
    /// (L, outputs, inputs)
    pub matmul_grad: Vec<[usize; 3]>,
    /// (channels, L)
    pub conv1d_backward: Vec<(usize, usize)>,
    /// (d_model, L)
    pub rms_norm_backward: Vec<(usize, usize)>,
    /// (vocab_size, L)
    pub cross_entropy: Vec<(usize, usize)>,
    /// Parameters, a multiple of 4.
    pub adamw: Vec<usize>,
    /// By name: models, sequences of a step and tokens of each.
    pub training: Vec<(String, Spec, [usize; 2])>,
}

impl Default for Shapes {
    fn default() -> Self {
        Self {
            copy_bytes: 256 << 20,
            scan: vec![(1536, 512), (1536, 2048), (1536, 8192), (5120, 2048), (5120, 8192), (1536, 65_536)],
            ssd: vec![2048, 8192],
            d_state: 16,
            matmul: vec![[512, 3072, 768], [2048, 8192, 2048], [2048, 4096, 4096]],
            matvec: vec![[3072, 768], [8192, 2048], [10_240, 2560], [50_280, 2560]],
            sampling: vec![50_280],
            models: Self::models_of(&Self::MODELS.map(str::to_owned)),
            prefill: vec![512, 2048, 8192],
            long: Some(("130m".into(), 1 << 20)),
            decode: (100, 64),
            batch: vec![1],
            scan_backward: vec![(1536, 512), (1536, 2048), (1536, 8192), (5120, 2048), (5120, 8192)],
            matmul_grad: Self::matmul_grad(2048, 1280),
            conv1d_backward: vec![(1536, 2048), (5120, 8192)],
            rms_norm_backward: vec![(768, 2048), (2560, 8192)],
            cross_entropy: vec![(50_280, 1280)],
            adamw: vec![129_135_360],
            training: Self::training(),
        }
    }
}

impl Shapes {
    /// The published sizes.
    pub const MODELS: [&'static str; 5] = ["130m", "370m", "790m", "1.4b", "2.8b"];
    /// Those of Mamba-2, which are measured where they are asked for.
    pub const MAMBA2: [&'static str; 5] = ["mamba2-130m", "mamba2-370m", "mamba2-780m", "mamba2-1.3b", "mamba2-2.7b"];

    /// Hybrids and a Transformer, likewise.
    pub const HYBRIDS: [&'static str; 5] =
        ["granite-4.0-h-350m", "granite-4.0-h-1b", "granite-4.0-h-tiny", "falcon-h1-0.5b", "llama-1b"];

    /// Models by name, of any of the lists; those of other names are left out.
    pub fn models_of(names: &[String]) -> Vec<(String, Spec)> {
        let lists = Self::MODELS.into_iter().chain(Self::MAMBA2).chain(Self::HYBRIDS);
        let known = lists.filter(|known| names.iter().any(|name| name == known));
        known.filter_map(|name| Some((name.to_owned(), Spec::preset(name)?))).collect()
    }

    /// Of `l` tokens the linear layers of 130m, small ones first, and 1.4b's largest; of `rows` tokens the head of 130m.
    fn matmul_grad(l: usize, rows: usize) -> Vec<[usize; 3]> {
        let matrices = |name: &str| {
            let params = Spec::preset(name).map_or(Vec::new(), |spec| spec.layer.params());
            let matrices = params.into_iter().filter(|param| matches!(param.role, Role::Matrix | Role::Exact));
            let mut sizes: Vec<_> = matrices.map(|param| [l, param.shape[0], param.shape[1]]).collect();
            sizes.sort_by_key(|[_, n, k]| n * k);
            sizes
        };
        let head = Spec::preset("130m").map(|spec| [rows, spec.vocab_size, spec.d_model]);
        matrices("130m").into_iter().chain(head).chain(matrices("1.4b").pop()).collect()
    }

    /// What any adapter trains in moments, and the smallest published size.
    fn training() -> Vec<(String, Spec, [usize; 2])> {
        let small = ("small".to_owned(), Spec::new(2, 64, 256), [4, 64]);
        let published = Spec::preset("130m").map(|spec| ("130m".to_owned(), spec, [1, 2048]));
        [small].into_iter().chain(published).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_are_measured_at_the_published_sizes() {
        let head = [1280, 50_280, 768];
        let layers = [[2048, 1536, 48], [2048, 80, 1536], [2048, 768, 1536], [2048, 3072, 768]];
        assert_eq!(Shapes::default().matmul_grad, [&layers[..], &[head, [2048, 8192, 2048]]].concat());
    }
}
