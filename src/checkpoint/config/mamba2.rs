//! Mamba-2, in transformers' and in mamba-ssm's configs.
//!
//! Only the number of groups is not to be read from the tensors' shapes: they have n_groups * d_state. transformers' class knows one
//! form (a gated norm, the gate first); mamba-ssm's `ssm_cfg` may ask for others.

use super::{shown, Check, FirstLayer, RawConfig, NORM_EPS};
use crate::checkpoint::LoadError;
use crate::model::blocks::{mamba2, Shape};
use crate::reference::GatedNorm;
use serde_json::Value;

const CONV: &str = "mixer.conv1d.weight";
const HEADS: &str = "mixer.dt_bias";
const IN_PROJ: &str = "mixer.in_proj.weight";
const OUT_PROJ: &str = "mixer.out_proj.weight";
const D: &str = "mixer.D";
const NORM: &str = "mixer.norm.weight";

pub(super) fn layer(
    d_model: usize,
    first: &impl FirstLayer,
    raw: Option<&RawConfig>,
) -> Result<(Shape, Vec<Check>), LoadError> {
    // Another number of groups, other limits or another norm would be another model of the same tensors.
    let raw = raw.ok_or_else(|| LoadError::ConfigNeeded { file: first.file() })?;
    let [channels, _, d_conv] = first.dimensions(CONV, "(d_ssm + 2 n_groups d_state, 1, d_conv)")?;
    let [n_heads] = first.dimensions(HEADS, "(n_heads)")?;
    let [row, _] = first.dimensions(IN_PROJ, "(2 d_mlp + 2 d_ssm + 2 n_groups d_state + n_heads, d_model)")?;
    let [_, d_inner] = first.dimensions(OUT_PROJ, "(d_model, d_mlp + d_ssm)")?;
    let [d] = first.dimensions(D, "(n_heads) or (d_ssm)")?;

    // row = 2 d_mlp + d_ssm + channels + n_heads, and d_inner = d_mlp + d_ssm.
    let impossible = || LoadError::Rank {
        file: first.file(),
        tensor: first.name(IN_PROJ),
        found: vec![row, d_model],
        expected: "(2 d_mlp + 2 d_ssm + 2 n_groups d_state + n_heads, d_model) as the others have it",
    };
    let passed = row.checked_sub(channels + n_heads).and_then(|both| both.checked_sub(d_inner));
    let sizes = passed.and_then(|d_mlp| Some((d_mlp, d_inner.checked_sub(d_mlp)?)));
    let (d_mlp, d_ssm) = sizes.ok_or_else(impossible)?;
    let both = channels.checked_sub(d_ssm).filter(|both| both % 2 == 0 && *both > 0);
    let grouped = both.ok_or_else(impossible)? / 2;
    if d_ssm == 0 || d_ssm % n_heads != 0 {
        return Err(impossible());
    }

    let n_groups = groups(raw, first, grouped, n_heads)?;
    let norm = norm(raw, first)?;
    let shape = mamba2::Shape {
        d_model,
        n_heads,
        head_dim: d_ssm / n_heads,
        d_state: grouped / n_groups,
        n_groups,
        d_conv,
        d_mlp,
        dt_limit: dt_limit(raw, if raw.is_mamba_ssm() { "ssm_cfg.dt_limit" } else { "time_step_limit" })?,
        norm,
        out_scale: 1.0,
        in_scale: 1.0,
        multipliers: None,
        norm_eps: raw.epsilon("layer_norm_epsilon", NORM_EPS)?,
        d_has_hdim: d != n_heads || raw.flag("ssm_cfg.D_has_hdim")? == Some(true),
    };
    let [conv, heads, out_proj] = [CONV, HEADS, OUT_PROJ].map(|name| first.described(name));
    let inner = &["expand", "ssm_cfg.expand", "intermediate_size"];
    let checks = vec![
        Check::new(&["state_size", "ssm_cfg.d_state"], 2, ("d_state", shape.d_state), &conv),
        Check::new(&["conv_kernel", "ssm_cfg.d_conv"], 2, ("d_conv", d_conv), &conv),
        Check::new(inner, 2, ("d_inner", d_inner), &out_proj),
        Check::new(&["num_heads"], 1, ("n_heads", n_heads), &heads),
        Check::new(&["head_dim", "ssm_cfg.headdim"], 2, ("head_dim", shape.head_dim), &heads),
        Check::new(&["ssm_cfg.d_ssm"], 1, ("d_ssm", d_ssm), &out_proj),
    ];
    Ok((Shape::Mamba2(shape), checks))
}

/// How many groups share the `grouped` rows that B has, and C: the one number that shapes leave open. transformers' class has 8 where
/// a config does not say, mamba-ssm's 1, and both 128 states a channel.
fn groups(raw: &RawConfig, first: &impl FirstLayer, grouped: usize, n_heads: usize) -> Result<usize, LoadError> {
    const STATES: usize = 128;
    let (key, states, by, default) = match raw.is_mamba_ssm() {
        true => ("ssm_cfg.ngroups", "ssm_cfg.d_state", "mamba-ssm", 1),
        false => ("n_groups", "state_size", "transformers", 8),
    };
    let stated = raw.get(key);
    let whole = |value: &Value| value.as_u64().ok_or_else(|| raw.bad_value(key, value, "it must be a whole number"));
    let n_groups = stated.map_or(Ok(default), whole)? as usize;
    let contradiction = |found: String| {
        let value = stated.map_or_else(|| format!("absent, which {by} takes as {default}"), shown);
        raw.contradiction(key, value, found)
    };
    let rows = format!("B and C have {grouped} rows each (`{}`)", first.described(CONV));
    if n_groups == 0 || !grouped.is_multiple_of(n_groups) || !n_heads.is_multiple_of(n_groups) {
        return Err(contradiction(format!("{rows} and there are {n_heads} heads")));
    }
    // As many states as a config says make it a number of groups: then it is not they that are wrong.
    let d_state = match raw.get(states) {
        Some(value) => value.as_u64().map(|n| n as usize),
        None if stated.is_none() => Some(STATES),
        None => None,
    };
    let fits = |d_state: &usize| {
        let groups = grouped.checked_div(*d_state).filter(|groups| groups * d_state == grouped);
        groups.is_some_and(|groups| groups != n_groups && n_heads.is_multiple_of(groups))
    };
    match d_state {
        Some(d_state) if fits(&d_state) => {
            Err(contradiction(format!("{rows}, {} groups of `{states}` {d_state}", grouped / d_state)))
        }
        Some(d_state) if raw.get(states).is_none() && d_state * n_groups != grouped => {
            Err(contradiction(format!("{rows}, and `{states}` is absent too: {by} takes it as {STATES}")))
        }
        _ => Ok(n_groups),
    }
}

/// Published configs of transformers carry a `norm_before_gate` that no version of it reads (Mamba-Codestral's says true and means
/// false): only mamba-ssm's is taken.
fn norm(raw: &RawConfig, first: &impl FirstLayer) -> Result<GatedNorm, LoadError> {
    let flag = |key| if raw.is_mamba_ssm() { raw.flag(key) } else { Ok(None) };
    let normed = flag("ssm_cfg.rmsnorm")?.unwrap_or(true);
    if normed != first.has(NORM) {
        if !normed {
            let found = format!("there is a tensor `{}`", first.described(NORM));
            return Err(raw.contradiction("ssm_cfg.rmsnorm", "false", found));
        }
        return Err(LoadError::MissingTensor { file: first.file(), tensor: first.name(NORM), hint: String::new() });
    }
    Ok(match (normed, flag("ssm_cfg.norm_before_gate")?) {
        (false, _) => GatedNorm::GateOnly,
        (true, Some(true)) => GatedNorm::NormFirst,
        (true, _) => GatedNorm::GateFirst,
    })
}

/// Two numbers, of which Infinity may be the bare word (quoted by the reader) or transformers' `{"__float__": "Infinity"}`.
pub(super) fn dt_limit(raw: &RawConfig, key: &str) -> Result<(f32, f32), LoadError> {
    let Some(value) = raw.get(key) else { return Ok((0.0, f32::INFINITY)) };
    let number = |value: &Value| match value.get("__float__").unwrap_or(value) {
        Value::String(word) if word == "Infinity" => Some(f32::INFINITY),
        Value::String(word) if word == "-Infinity" => Some(f32::NEG_INFINITY),
        other => other.as_f64().map(|x| x as f32),
    };
    let limits: Option<Vec<f32>> = value.as_array().and_then(|list| list.iter().map(number).collect());
    match limits.as_deref() {
        Some(&[low, high]) if low >= 0.0 && low <= high && low.is_finite() => Ok((low, high)),
        _ => Err(LoadError::ConfigValue {
            file: raw.file.clone(),
            key: key.into(),
            value: shown(value),
            expected: "it must be two numbers from 0 on, the smaller first and finite",
        }),
    }
}
