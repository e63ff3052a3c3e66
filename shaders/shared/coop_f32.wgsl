// Weights for cooperative matrices, rounded to f16 from what weight_f32.wgsl gives.
#include "shared/weight_f32.wgsl"

fn weight4h(i: u32) -> vec4<f16> {
    return vec4<f16>(weight4(i));
}
