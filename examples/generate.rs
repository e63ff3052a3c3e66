//! A text in a few lines: `cargo run --release --example generate`.

use mamba_wgpu::generate::{GenerateOptions, Generator};
use mamba_wgpu::model::{embedded, Backend, LanguageModel, ModelOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    pollster::block_on(async {
        let backend = Backend::auto().await; // a hardware GPU, or else the CPU; `gpu::Gpu::new` opens any adapter
        let checkpoint = embedded::checkpoint()?;
        let model = LanguageModel::load(&checkpoint, &backend, ModelOptions::default(), &mut |_, _| {}).await?;
        let tokenizer = checkpoint.tokenizer()?.ok_or("the checkpoint has no tokenizer")?;
        let prompt = tokenizer.encode_with_special_tokens("It is a truth universally acknowledged, that")?;
        let options = GenerateOptions { max_tokens: 48, ..Default::default() };
        let mut text = Generator::new(model.session()?, &tokenizer, &prompt, options)?;
        while let Some(piece) = text.next().await? {
            print!("{}", piece.text);
        }
        println!();
        Ok(())
    })
}
