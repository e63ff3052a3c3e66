//! Which layers go where: the last ones on devices, as llama.cpp's `--gpu-layers` counts them, those before them on the CPU.

use super::Part;
use crate::checkpoint::{Checkpoint, ModelWeights, TensorView};
use crate::error::Result;
use crate::gpu::shader::WeightFormat;
use crate::gpu::Gpu;
use crate::model::blocks::{Role, Shape, Weights};
use crate::model::lm::Backend;
use crate::model::ModelConfig;
use crate::settings::{ModelOptions, WeightDtype};
use std::ops::Range;

/// Tokens whose keys and values there is to be room for.
const TOKENS: u64 = 4096;
/// Of what a device lets itself be filled with, so much is taken: other programs need some.
const SHARE: (u64, u64) = (15, 16);

/// What a model takes on a device, in bytes.
struct Sizes {
    /// Of each layer: its weights, and what it keeps of a text.
    layers: Vec<u64>,
    /// Of the embedding, and of what comes after the layers.
    begin: u64,
    end: u64,
    /// Of the embedding that is the head as well, where both are on one device.
    shared: u64,
    /// Of a chunk's activations, about: a dozen rows of the widest for each token.
    work: u64,
}

/// A tensor's as the device holds it.
fn bytes(tensor: &TensorView<'_>, matrix: bool, weights: WeightDtype) -> u64 {
    match tensor.dtype.on_device() {
        WeightFormat::F16 if matrix && weights != WeightDtype::F32 => 2 * tensor.len() as u64,
        WeightFormat::Quantised(_) if weights != WeightDtype::F32 => tensor.bytes(),
        _ => 4 * tensor.len() as u64,
    }
}

fn layer(shape: &Shape, w: &Weights<TensorView<'_>>, weights: WeightDtype) -> u64 {
    let params = shape.params();
    let state: u64 = shape.state().iter().map(|field| 4 * field.elements() as u64).sum();
    let kept = shape.keys_values().map_or(0, |(kv_heads, head_dim)| 8 * (kv_heads * head_dim) as u64 * TOKENS);
    // A state is there twice: also as it was a step before.
    let mut sum = 2 * state + kept;
    w.for_each(&mut |name, tensor| {
        let matrix = matches!(Role::of(&params, name), Role::Matrix | Role::Exact);
        sum += bytes(tensor, matrix, weights);
    });
    sum
}

impl Sizes {
    fn of(c: &ModelConfig, w: &ModelWeights<'_>, options: &ModelOptions) -> Self {
        let blocks: Vec<_> = c.layers.iter().zip(&w.layers).map(|(s, w)| layer(s, w, options.weights)).collect();
        let matrix = |tensor: &TensorView<'_>| bytes(tensor, true, options.weights);
        let (begin, head) = (matrix(&w.embedding), w.lm_head.as_ref().map(matrix));
        let widest = c.layers.iter().map(Shape::widest).max().unwrap_or(0).max(c.d_model) as u64;
        let logits = 256 * c.vocab_size as u64;
        Self {
            layers: blocks.chunks(c.arch.blocks_per_layer()).map(|blocks| blocks.iter().sum()).collect(),
            begin,
            end: head.unwrap_or(begin) + 4 * c.d_model as u64 + logits,
            shared: if head.is_none() { begin } else { 0 },
            work: options.chunk as u64 * 4 * (6 * widest + 6 * c.d_model as u64),
        }
    }

    /// Of some layers on a device; 0 of none.
    fn on_device(&self, layers: &Range<usize>) -> u64 {
        if layers.is_empty() {
            return 0;
        }
        let (begins, ends) = (layers.start == 0, layers.end == self.layers.len());
        let of_layers: u64 = self.layers[layers.clone()].iter().sum();
        let ends_of =
            [(begins, self.begin), (ends, self.end)].iter().map(|(has, bytes)| u64::from(*has) * bytes).sum::<u64>();
        self.work + of_layers + ends_of - u64::from(begins && ends) * self.shared
    }

    fn all(&self) -> u64 {
        self.on_device(&(0..self.layers.len()))
    }

    /// How many layers each device takes: the last one as many of the last layers as it has room for, and so on; no more than `most`.
    fn fill(&self, rooms: &[u64], most: usize) -> Vec<usize> {
        let mut end = self.layers.len();
        let least = end - most.min(end);
        let mut counts: Vec<_> = rooms
            .iter()
            .rev()
            .map(|room| {
                let start = (least..end)
                    .rev()
                    .take_while(|start| self.on_device(&(*start..end)) <= *room)
                    .last()
                    .unwrap_or(end);
                let count = end - start;
                end = start;
                count
            })
            .collect();
        counts.reverse();
        counts
    }

    /// So many of the last layers, or as many as there is room for, spread so that devices are filled alike.
    fn spread(&self, rooms: &[u64], most: usize) -> Vec<usize> {
        const PARTS: u64 = 1 << 12;
        let most = self.fill(rooms, most).iter().sum();
        let with = |share: u64| {
            let rooms: Vec<_> =
                rooms.iter().map(|room| (u128::from(*room) * u128::from(share) / u128::from(PARTS)) as u64).collect();
            self.fill(&rooms, most)
        };
        let (mut little, mut enough) = (0, PARTS);
        while enough - little > 1 {
            let share = little.midpoint(enough);
            match with(share).iter().sum::<usize>() == most {
                true => enough = share,
                false => little = share,
            }
        }
        with(enough)
    }
}

/// The devices with so many layers each, behind the CPU with those that are left.
fn parts(gpus: &[Gpu], counts: &[usize], n_layer: usize) -> Vec<Part> {
    let on_gpus = gpus.iter().zip(counts).map(|(gpu, &layers)| Part { backend: Backend::Gpu(gpu.clone()), layers });
    let rest = Part { backend: Backend::Cpu, layers: n_layer - counts.iter().sum::<usize>() };
    std::iter::once(rest).chain(on_gpus).filter(|part| part.layers > 0).collect()
}

impl Part {
    /// The last `layers` of a model's layers on devices, with its head, and those before them on the CPU; of several devices each gets
    /// about as many bytes. `layers` may be more than there are: then all is on the devices.
    pub fn last_layers(checkpoint: &Checkpoint, options: &ModelOptions, gpus: &[Gpu], layers: usize) -> Vec<Self> {
        let config = checkpoint.config();
        let sizes = Sizes::of(config, &checkpoint.weights(), options);
        let counts = sizes.spread(&vec![sizes.all(); gpus.len()], layers);
        parts(gpus, &counts, config.n_layer())
    }

    /// As many of the last layers as there is room for on the devices, with a text of some thousand tokens, and those before them on the
    /// CPU. `memory`: bytes of each device that may be taken; `None`: as many as it lets itself be filled with now.
    ///
    /// # Errors
    /// A device that was lost.
    pub async fn that_fit(
        checkpoint: &Checkpoint,
        options: &ModelOptions,
        gpus: &[Gpu],
        memory: Option<u64>,
    ) -> Result<Vec<Self>> {
        let config = checkpoint.config();
        let sizes = Sizes::of(config, &checkpoint.weights(), options);
        let mut rooms = Vec::new();
        for gpu in gpus {
            rooms.push(match memory {
                Some(bytes) => bytes,
                None => gpu.room(sizes.all() / SHARE.0 * SHARE.1 + SHARE.1).await? / SHARE.1 * SHARE.0,
            });
        }
        Ok(parts(gpus, &sizes.spread(&rooms, config.n_layer()), config.n_layer()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes() -> Sizes {
        Sizes { layers: vec![10, 10, 30, 10, 10], begin: 40, end: 40, shared: 40, work: 5 }
    }

    #[test]
    fn the_last_layers_come_first() {
        let s = sizes();
        assert_eq!(s.all(), 115);
        assert_eq!(s.fill(&[54], 5), [0], "the head and the last layer are 55");
        assert_eq!(s.fill(&[55], 5), [1]);
        assert_eq!(s.fill(&[1000], 5), [5]);
        assert_eq!(s.fill(&[1000], 2), [2]);
        assert_eq!(s.fill(&[1000], 0), [0]);
        assert_eq!(s.fill(&[], 5), [0; 0]);
        // 30 and 10 more, behind which the embedding does not fit.
        assert_eq!(s.fill(&[94, 65], 5), [2, 2]);
        assert_eq!(s.fill(&[95, 65], 5), [3, 2]);
    }

    #[test]
    fn devices_are_filled_alike() {
        let s = sizes();
        assert_eq!(s.spread(&[1000, 1000], 5), [2, 3]);
        assert_eq!(s.spread(&[1000, 1000], 4), [3, 1], "55 and 55");
        assert_eq!(s.spread(&[1000, 1000], 1), [0, 1]);
        // By what each has room for.
        assert_eq!(s.spread(&[120, 60], 5), [4, 1]);
        assert_eq!(s.spread(&[10, 60], 5), [0, 1]);
        let even = Sizes { layers: vec![10; 8], begin: 0, end: 0, shared: 0, work: 0 };
        assert_eq!(even.spread(&[80; 4], 8), [2; 4]);
        assert_eq!(even.spread(&[80; 4], 6).iter().sum::<usize>(), 6);
    }
}
