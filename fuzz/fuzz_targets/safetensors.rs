//! Any bytes as a safetensors file: opened and converted to f32, or refused, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mamba_wgpu::model::Checkpoint;
use std::borrow::Cow;

fuzz_target!(|weights: &[u8]| {
    if let Ok(checkpoint) = Checkpoint::from_bytes(b"{}", vec![Cow::Owned(weights.to_vec())], None) {
        checkpoint.weights().for_each(|tensor| {
            if let Ok(values) = tensor.to_f32() {
                assert_eq!(values.len(), tensor.len());
                assert!(values.iter().all(|x| x.is_finite()));
            }
        });
    }
});
