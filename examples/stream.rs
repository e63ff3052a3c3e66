//! Token by token, with sampling, a stop string, and an end from outside (Ctrl-C): `cargo run --release --example stream`.

use mamba_wgpu::generate::{GenerateOptions, Generator, SamplingParams};
use mamba_wgpu::model::{embedded, Backend, LanguageModel, ModelOptions};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cancel = Arc::new(AtomicBool::new(false));
    let on_signal = cancel.clone();
    ctrlc::set_handler(move || on_signal.store(true, Ordering::Relaxed))?;
    pollster::block_on(async {
        // A GPU, or the CPU where there is none.
        let backend = Backend::auto().await;
        let checkpoint = embedded::checkpoint()?;
        let model = LanguageModel::load(&checkpoint, &backend, ModelOptions::default(), &mut |_, _| {}).await?;
        let tokenizer = checkpoint.tokenizer()?.ok_or("the checkpoint has no tokenizer")?;
        let options = GenerateOptions {
            max_tokens: 200,
            params: SamplingParams { temperature: 0.8, top_p: 0.95, seed: 7, ..Default::default() },
            stop: vec!["\n\n".into()],
            cancel,
            ..Default::default()
        };
        let mut text =
            Generator::new(model.session()?, &tokenizer, &tokenizer.encode_with_special_tokens("Emma")?, options)?;
        while let Some(piece) = text.next().await? {
            // A piece is empty while a character, or a possible stop string, is unfinished.
            print!("{}", piece.text);
            std::io::stdout().flush()?;
        }
        eprintln!("\n{:?}, {} tokens", text.finish_reason(), text.stats().generated_tokens);
        Ok(())
    })
}
