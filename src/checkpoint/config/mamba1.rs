//! Mamba and Falcon-Mamba.

use super::{Arch, Check, FirstLayer, RawConfig};
use crate::checkpoint::LoadError;
use crate::model::blocks::mamba1::{self, MIXER_RMS_EPS};
use crate::model::blocks::Shape;

/// All dimensions are the tensors'; the config says the epsilon of Falcon-Mamba's norms.
pub(super) fn layer(
    arch: Arch,
    d_model: usize,
    first: &impl FirstLayer,
    raw: Option<&RawConfig>,
) -> Result<(Shape, Vec<Check>), LoadError> {
    const NAMES: [&str; 3] = ["mixer.A_log", "mixer.conv1d.weight", "mixer.dt_proj.weight"];
    let [d_inner, d_state] = first.dimensions(NAMES[0], "(d_inner, d_state)")?;
    let [_, _, d_conv] = first.dimensions(NAMES[1], "(d_inner, 1, d_conv)")?;
    let [_, dt_rank] = first.dimensions(NAMES[2], "(d_inner, dt_rank)")?;
    let eps = raw.map_or(Ok(MIXER_RMS_EPS), |raw| raw.epsilon("mixer_rms_eps", MIXER_RMS_EPS))?;
    let mixer_rms_eps = (arch == Arch::FalconMamba).then_some(eps);
    let [a_log, conv1d, dt_proj] = NAMES.map(|name| first.described(name));
    let inner = &["intermediate_size", "expand", "ssm_cfg.expand", "d_inner"];
    let checks = vec![
        Check::new(&["state_size", "ssm_cfg.d_state"], 2, ("d_state", d_state), &a_log),
        Check::new(&["conv_kernel", "ssm_cfg.d_conv"], 2, ("d_conv", d_conv), &conv1d),
        Check::new(inner, 3, ("d_inner", d_inner), &a_log),
        Check::new(&["time_step_rank", "ssm_cfg.dt_rank"], 2, ("dt_rank", dt_rank), &dt_proj),
    ];
    Ok((Shape::Mamba1(mamba1::Shape { d_model, d_inner, d_state, d_conv, dt_rank, mixer_rms_eps }), checks))
}
