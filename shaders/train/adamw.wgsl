// AdamW (Loshchilov and Hutter, "Decoupled weight decay regularization", 2019, algorithm 2), as torch.optim.AdamW computes it:
//   g = clip gradient;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
//   value = value (1 - rate decay) - rate (m / correction1) / (sqrt(v) / correction2 + eps)
// The first `decayed` quads decay. In a run that is frozen (gradient_clip.wgsl) nothing changes.
// Grid: an invocation a quad, flat.
#include "shared/grid.wgsl"
#include "shared/train_step.wgsl"

struct Params {
    quads: u32,
    decayed: u32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    weight_decay: f32,
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> value: array<vec4f>;   // (quads)
@group(0) @binding(2) var<storage, read> gradient: array<vec4f>;      // (quads)
@group(0) @binding(3) var<storage, read_write> m: array<vec4f>;       // (quads)
@group(0) @binding(4) var<storage, read_write> v: array<vec4f>;       // (quads)
@group(0) @binding(5) var<storage, read> step: Step;
@group(0) @binding(6) var<storage, read> clip: Clip;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wid: vec3u, @builtin(num_workgroups) num: vec3u, @builtin(local_invocation_index) lid: u32) {
    let i = flat_index(wid, num, lid, 256u);
    if i >= p.quads || clip.frozen != 0u {
        return;
    }
    let g = gradient[i] * clip.scale;
    let m1 = p.beta1 * m[i] + (1.0 - p.beta1) * g;
    let v1 = p.beta2 * v[i] + (1.0 - p.beta2) * g * g;
    let rate = step.learning_rate;
    let decay = select(0.0, rate * p.weight_decay, i < p.decayed);
    m[i] = m1;
    v[i] = v1;
    value[i] = value[i] * (1.0 - decay) - rate * (m1 / step.correction1) / (sqrt(v1) / step.correction2 + p.eps);
}
