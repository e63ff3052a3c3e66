//! Decoding goes on without growing, on either backend, on a small golden checkpoint: 20,000 tokens of one text, and 2,000 of each of
//! 64 in a batch.

#![cfg(target_os = "linux")]

mod common;

use common::On;
use mamba_wgpu::model::{Backend, Checkpoint, Scan};
use std::path::Path;

const TOKENS: u32 = 20_000;

/// Bytes of this process in memory.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux has it");
    let pages: usize = statm.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a number");
    pages * 4096
}

async fn decode(backend: &Backend) {
    let checkpoint = Checkpoint::open(Path::new("tests/golden/checkpoints/odd-dims")).expect("a golden");
    let model = common::load(&checkpoint, backend, Scan::Fused, 64).await;
    let vocab_size = model.config().vocab_size as u32;
    let mut session = model.session().expect("a session");
    let device = |m: &mamba_wgpu::model::LanguageModel| m.gpu().map(|g| g.memory_bytes().0);
    let mut start = (0, None);
    for i in 0..TOKENS {
        session.step((i * 7 + i / 3) % vocab_size).await.expect("a step");
        // A look at the result now and then, as a text would take.
        if i % 8 == 0 {
            session.sample().await.expect("a token");
        }
        // Buffers, caches and the allocator's arenas have their size by then.
        if i == TOKENS / 4 {
            start = (resident(), device(&model));
        }
    }
    assert_eq!(device(&model), start.1, "buffers on the device");
    let grown = resident().saturating_sub(start.0);
    // A leak of one bind group or command buffer a token would be tens of megabytes.
    assert!(grown < 4 << 20, "{grown} bytes more after 15,000 tokens");
}

async fn decode_batch(backend: &Backend) {
    let checkpoint = Checkpoint::open(Path::new("tests/golden/checkpoints/odd-dims")).expect("a golden");
    let model = common::load(&checkpoint, backend, Scan::Fused, 64).await;
    let mut batch = model.batch(64).expect("64 slots");
    let slots: Vec<_> = (0..64).collect();
    for &slot in &slots {
        batch.prefill(slot, &vec![3; 1 + slot], &mut |_, _| {}).await.expect("a prompt");
    }
    let device = |m: &mamba_wgpu::model::LanguageModel| m.gpu().map(|g| g.memory_bytes().0);
    let mut start = (0, None);
    for i in 0..2000 {
        let tokens = batch.advance(&slots).await.expect("a step");
        assert!(tokens.iter().all(Option::is_some));
        if i == 500 {
            start = (resident(), device(&model));
        }
    }
    assert_eq!(device(&model), start.1, "buffers on the device");
    let grown = resident().saturating_sub(start.0);
    assert!(grown < 4 << 20, "{grown} bytes more after 1,500 steps of 64 texts");
}

/// One test, not several: each measures the whole process.
#[test]
fn memory_stays_flat() {
    pollster::block_on(async {
        for on in [On::Cpu, On::Gpu] {
            decode(&on.open().await).await;
            decode_batch(&on.open().await).await;
        }
    });
}
