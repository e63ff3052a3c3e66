//! Writes a model with random weights, of any size, as a Hugging Face folder without a tokenizer:
//!
//! ```text
//! cargo run --example make_random_model -- --preset 130m --dtype f16 --out /tmp/random-130m
//! cargo run --example make_random_model -- --n-layer 3 --d-model 65 --vocab-size 100 --d-state 7 --untied --out /tmp/odd
//! ```
//!
//! The weights are streamed to the disk; nothing is held in memory.

use anyhow::{bail, Context, Result};
use clap::Parser;
use mamba_wgpu::model::blocks::{mamba1, Shape};
use mamba_wgpu::model::{
    synthetic::{Spec, PRESETS},
    Arch, Dtype,
};
use std::{fs, io::BufWriter, path::PathBuf};

#[derive(Parser)]
#[command(about = "Writes a Mamba checkpoint with random weights")]
struct Args {
    /// tiny, 130m, 370m, 790m, 1.4b or 2.8b; the other options change single dimensions of it.
    #[arg(long)]
    preset: Option<String>,
    #[arg(long)]
    n_layer: Option<usize>,
    #[arg(long)]
    d_model: Option<usize>,
    #[arg(long)]
    vocab_size: Option<usize>,
    #[arg(long)]
    d_inner: Option<usize>,
    #[arg(long)]
    d_state: Option<usize>,
    #[arg(long)]
    d_conv: Option<usize>,
    #[arg(long)]
    dt_rank: Option<usize>,
    /// A head of its own instead of the embedding.
    #[arg(long)]
    untied: bool,
    /// Biases on in_proj and out_proj.
    #[arg(long)]
    use_bias: bool,
    /// No bias on the convolution.
    #[arg(long)]
    no_conv_bias: bool,
    /// Falcon-Mamba instead of Mamba.
    #[arg(long)]
    falcon: bool,
    /// f32, f16, bf16, q8 or q4.
    #[arg(long, default_value = "f32")]
    dtype: String,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The folder to write.
    #[arg(long)]
    out: PathBuf,
}

impl Args {
    fn spec(&self) -> Result<Spec> {
        let base = match &self.preset {
            Some(name) => {
                Spec::preset(name).with_context(|| format!("--preset {name}: not one of {}", PRESETS.join(", ")))?
            }
            None => Spec::new(2, 64, 256),
        };
        // Another width takes the usual proportions; a preset's own ones hold for its own width.
        let base = match self.d_model {
            Some(d_model) => Spec::new(base.n_layer, d_model, base.vocab_size),
            None => base,
        };
        let usual = base.layer.mamba1().copied().unwrap_or_else(|| mamba1::Shape::of(base.d_model));
        let layer = mamba1::Shape {
            d_inner: self.d_inner.unwrap_or(usual.d_inner),
            d_state: self.d_state.unwrap_or(usual.d_state),
            d_conv: self.d_conv.unwrap_or(usual.d_conv),
            dt_rank: self.dt_rank.unwrap_or(usual.dt_rank),
            ..usual
        };
        let spec = Spec {
            layer: Shape::Mamba1(layer),
            n_layer: self.n_layer.unwrap_or(base.n_layer),
            vocab_size: self.vocab_size.unwrap_or(base.vocab_size),
            tied: !self.untied,
            use_bias: self.use_bias,
            use_conv_bias: !self.no_conv_bias,
            dtype: match self.dtype.as_str() {
                "f32" => Dtype::F32,
                "f16" => Dtype::F16,
                "bf16" => Dtype::BF16,
                "q8" => Dtype::Q8,
                "q4" => Dtype::Q4,
                other => bail!("--dtype {other}: not one of f32, f16, bf16, q8, q4"),
            },
            seed: self.seed,
            ..base
        };
        let inner = spec.layer.dimensions().into_iter().map(|(_, size)| size);
        if [spec.n_layer, spec.d_model, spec.vocab_size].into_iter().chain(inner).any(|size| size == 0) {
            bail!("every dimension must be at least 1");
        }
        Ok(spec.of(if self.falcon { Arch::FalconMamba } else { Arch::Mamba1 }))
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let spec = args.spec()?;
    let path = args.out.join("model.safetensors");
    fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    fs::write(args.out.join("config.json"), spec.config_json()).with_context(|| args.out.display().to_string())?;
    let file = fs::File::create(&path).with_context(|| path.display().to_string())?;
    let mut shown = 0;
    let mut progress = |done: u64, total: u64| {
        let percent = done * 100 / total.max(1);
        if percent > shown {
            shown = percent;
            eprint!("\r{}: {percent} % of {} MB", path.display(), total / 1_000_000);
        }
    };
    let mut out = BufWriter::new(file);
    spec.write_safetensors(&mut out, &mut progress).with_context(|| path.display().to_string())?;
    std::io::Write::flush(&mut out).with_context(|| path.display().to_string())?;
    eprintln!();
    Ok(())
}
