//! Any bytes as `config.json` beside good weights: read or refused, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mamba_wgpu::model::{synthetic::Spec, Checkpoint};
use std::{borrow::Cow, sync::OnceLock};

fuzz_target!(|config: &[u8]| {
    static WEIGHTS: OnceLock<Vec<u8>> = OnceLock::new();
    let weights = WEIGHTS.get_or_init(|| {
        let mut bytes = Vec::new();
        Spec::preset("tiny").expect("a preset").write_safetensors(&mut bytes, &mut |_, _| {}).expect("memory");
        bytes
    });
    if let Ok(checkpoint) = Checkpoint::from_bytes(config, vec![Cow::Borrowed(weights)], None) {
        let c = checkpoint.config();
        // What the tensors say stands, whatever the config claims.
        assert_eq!((c.d_model, c.n_layer(), c.vocab_size), (13, 2, 37));
        let sizes: Vec<_> = c.layers[1].dimensions().into_iter().map(|(_, size)| size).collect();
        assert_eq!(sizes, [26, 5, 3, 2]);
        assert!(c.norm_eps > 0.0 && c.norm_eps.is_finite());
    }
});
