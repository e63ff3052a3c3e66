//! One beginning, two endings: a session's state is small, so a text can be forked at any point without reading it again.
//! `cargo run --release --example fork_state`

use mamba_wgpu::generate::SamplingParams;
use mamba_wgpu::model::{embedded, Backend, LanguageModel, ModelOptions, Session};

/// So many tokens from where the session is.
async fn continued(mut session: Session, seed: u64, tokens: usize) -> mamba_wgpu::Result<Vec<u32>> {
    session.begin_sampling(&SamplingParams { temperature: 0.9, seed, ..Default::default() }, &[])?;
    let mut out = Vec::new();
    for _ in 0..tokens {
        let token = session.sample().await?;
        session.step(token).await?;
        out.push(token);
    }
    Ok(out)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    pollster::block_on(async {
        let backend = Backend::auto().await;
        let checkpoint = embedded::checkpoint()?;
        let model = LanguageModel::load(&checkpoint, &backend, ModelOptions::default(), &mut |_, _| {}).await?;
        let tokenizer = checkpoint.tokenizer()?.ok_or("the checkpoint has no tokenizer")?;

        let beginning = "Mr. Darcy opened the letter, and";
        let mut session = model.session()?;
        session.prefill(&tokenizer.encode_with_special_tokens(beginning)?, &mut |_, _| {}).await?;
        let fork = session.try_clone()?;
        for (ending, session) in [(1, session), (2, fork)] {
            println!("{ending}. {beginning}{}\n", tokenizer.decode(&continued(session, ending, 40).await?)?);
        }
        Ok(())
    })
}
