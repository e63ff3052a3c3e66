#include "shared/math.wgsl"

// The step size of a token and head: softplus, then the limits. Comparisons instead of clamp: NaN stays NaN.
fn step_size(dt: f32) -> f32 {
    let delta = softplus(dt);
    let least = select(delta, p.dt_min, delta < p.dt_min);
    return select(least, p.dt_max, least > p.dt_max);
}
