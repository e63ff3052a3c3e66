//! Biases and norms of heads, which some families always have, others never, and others where a key says so. transformers' class, by the
//! config, decides which of them there are; a file that differs is another model's.

use super::reader::Reader;
use crate::checkpoint::config::{shown, Family, RawConfig};
use crate::checkpoint::LoadError;

/// Whether the layers of a kind have a tensor, and what the first of them calls it.
pub(in crate::checkpoint) struct Found {
    pub stored: bool,
    pub tensor: String,
    pub file: String,
}

/// Parameters that layers of a kind have or have not.
struct Rule {
    kind: &'static str,
    params: &'static [&'static str],
    /// The key that says so; `None` where the family alone does.
    key: Option<&'static str>,
    there: bool,
}

const QKV: &[&str] = &["mixer.q_proj.bias", "mixer.k_proj.bias", "mixer.v_proj.bias"];
const O: &[&str] = &["mixer.o_proj.bias"];
const NORMS: &[&str] = &["mixer.q_norm.weight", "mixer.k_norm.weight"];
const GATE: &[&str] = &["mixer.gate_proj.bias"];
const MLP: &[&str] = &["mixer.up_proj.bias", "mixer.down_proj.bias"];
const IN: &[&str] = &["mixer.in_proj.bias"];
const OUT: &[&str] = &["mixer.out_proj.bias"];
const CONV: &[&str] = &["mixer.conv1d.bias"];

impl Reader<'_> {
    /// What the config has the layers have, absent keys by their class's defaults.
    fn rules(&self) -> Result<Vec<Rule>, LoadError> {
        use Family::{FalconH1, Mistral, NemotronH, Qwen2, Qwen3};
        let always = |kind, params, there| Rule { kind, params, key: None, there };
        let by = |key: &'static str, kind, params, absent| {
            let there = self.flag_or(key, absent)?;
            Ok::<_, LoadError>(Rule { kind, params, key: Some(key), there })
        };
        let (attention, mlp, mamba) = ("attention", "mlp", "mamba2");
        let mut rules = vec![always(attention, NORMS, self.family == Qwen3)];
        match self.family {
            Qwen2 => rules.extend([always(attention, QKV, true), always(attention, O, false)]),
            Mistral | NemotronH => rules.extend([always(attention, QKV, false), always(attention, O, false)]),
            _ => {
                let key = "attention_bias";
                rules.extend([by(key, attention, QKV, false)?, by(key, attention, O, false)?]);
            }
        }
        match self.family {
            Mistral | Qwen2 | Qwen3 | Family::Granite => {
                rules.extend([always(mlp, GATE, false), always(mlp, MLP, false)]);
            }
            NemotronH => rules.extend([always(mlp, GATE, false), by("mlp_bias", mlp, MLP, false)?]),
            _ => rules.extend([by("mlp_bias", mlp, GATE, false)?, by("mlp_bias", mlp, MLP, false)?]),
        }
        // What earlier configs call it counts first.
        let old = self.raw.says("mamba_conv_bias");
        let (projections, out, conv) = match self.family {
            NemotronH if old => ("use_bias", "use_bias", "mamba_conv_bias"),
            NemotronH => ("use_bias", "use_bias", "use_conv_bias"),
            FalconH1 => ("mamba_proj_bias", "projectors_bias", "mamba_conv_bias"),
            _ => ("mamba_proj_bias", "mamba_proj_bias", "mamba_conv_bias"),
        };
        rules.extend([by(projections, mamba, IN, false)?, by(out, mamba, OUT, false)?, by(conv, mamba, CONV, true)?]);
        Ok(rules)
    }
}

/// Refuses tensors that the config does not have, and a file without those that it has. `find`: what there is of a kind of layers and a
/// parameter; `None` where there are no such layers.
pub(in crate::checkpoint) fn check(
    family: Family,
    raw: &RawConfig,
    said_by: Option<&'static str>,
    find: &dyn Fn(&str, &str) -> Option<Found>,
) -> Result<(), LoadError> {
    for Rule { kind, params, key, there } in (Reader { raw, family }).rules()? {
        for param in params {
            let Some(Found { stored, tensor, file }) = find(kind, param).filter(|found| found.stored != there) else {
                continue;
            };
            let value = |key: &str| raw.get(key).map(shown);
            let have = if stored { "have" } else { "do not have" };
            let found = format!("the layers {have} a tensor `{tensor}`");
            return Err(match key {
                Some(key) => {
                    let absent = || format!("absent, which makes it {there}");
                    raw.contradiction(key, value(key).unwrap_or_else(absent), found)
                }
                // Which family it is decides.
                None if stored => {
                    let key = said_by.unwrap_or("model_type");
                    let value = value(key).unwrap_or_else(|| "absent".into());
                    raw.contradiction(key, value, format!("{found}, which such models have not"))
                }
                None => {
                    let key = said_by.unwrap_or("model_type");
                    let hint = format!(": by the config's `{key}` all layers of {kind} have one");
                    LoadError::MissingTensor { file, tensor, hint }
                }
            });
        }
    }
    Ok(())
}
