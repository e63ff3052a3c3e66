//! A good checkpoint damaged at random: whatever comes of it, nothing panics.

use crate::{convert, make::Model};
use mamba_wgpu::model::{synthetic::Spec, Checkpoint, Dtype};
use proptest::prelude::*;
use std::borrow::Cow;

/// Opens and converts; only panics fail.
fn survives(config: &[u8], weights: Vec<u8>) {
    if let Ok(checkpoint) = Checkpoint::from_bytes(config, vec![Cow::Owned(weights)], None) {
        let _ = convert(&checkpoint);
        let _ = checkpoint.tensors().count();
    }
}

/// Where to damage `length` bytes: the header and what follows are hit alike.
fn positions(length: usize) -> impl Strategy<Value = Vec<(usize, u8)>> {
    let position = prop_oneof![0..16usize, 0..length.min(3000), 0..length];
    prop::collection::vec((position, any::<u8>()), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn damaged_weights_never_panic(damage in positions(Model::tiny().safetensors().len()), cut in 0..4000usize) {
        let model = Model::tiny();
        let mut bytes = model.safetensors();
        for (at, byte) in damage {
            bytes[at] = byte;
        }
        if cut % 3 == 0 {
            bytes.truncate(bytes.len().saturating_sub(cut));
        }
        survives(&model.config_json(), bytes);
    }

    /// Numbers and punctuation of the header replaced by others: mostly still JSON.
    #[test]
    fn altered_headers_never_panic(edits in prop::collection::vec((0..3000usize, prop::sample::select(b"0123456789,:[]{}\"F".to_vec())), 1..5)) {
        let model = Model::tiny();
        let mut bytes = model.safetensors();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        for (at, byte) in edits {
            bytes[8 + at % header] = byte;
        }
        survives(&model.config_json(), bytes);
    }

    #[test]
    fn altered_quantised_headers_never_panic(edits in prop::collection::vec((0..6000usize, prop::sample::select(b"0123456789,:[]{}\"qFU".to_vec())), 1..5)) {
        let model = Model::new(&Spec { dtype: Dtype::Q4, ..Spec::preset("tiny").unwrap() });
        let mut bytes = model.safetensors();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        for (at, byte) in edits {
            bytes[8 + at % header] = byte;
        }
        survives(&model.config_json(), bytes);
    }

    #[test]
    fn damaged_configs_never_panic(damage in positions(Model::tiny().config_json().len())) {
        let model = Model::tiny();
        let mut config = model.config_json();
        for (at, byte) in damage {
            let at = at % config.len();
            config[at] = byte;
        }
        survives(&config, model.safetensors());
    }
}
