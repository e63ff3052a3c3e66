// The gradient's norm, what it is multiplied by so that the norm is at most max_norm, and a line in the step's record:
//   norm = sqrt(sum of partials);  clip = min(1, max_norm / (norm + 1e-6))   (torch.nn.utils.clip_grad_norm_)
// A loss or a norm that is not finite freezes the run: adamw changes nothing from then on, so that the parameters stay those
// before the bad step.
// Grid: one workgroup.
#include "shared/reduce.wgsl"
#include "shared/train_step.wgsl"

struct Params {
    partials: u32,
    max_norm: f32, // 0: no clipping
}
@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> partials: array<f32>;
@group(0) @binding(2) var<storage, read> step: Step;
@group(0) @binding(3) var<storage, read> loss_sum: array<f32>;         // (1): nll of all targets that count
@group(0) @binding(4) var<storage, read_write> clip: Clip;
@group(0) @binding(5) var<storage, read_write> record: array<vec2f>;   // (slots): loss, norm

fn finite(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u;
}

@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) lid: u32) {
    var sum = 0.0;
    for (var i = lid; i < p.partials; i += WG) {
        sum += partials[i];
    }
    let total = workgroup_sum(lid, sum);
    if lid == 0u {
        let norm = sqrt(total);
        let loss = loss_sum[0] * step.loss_scale;
        clip.scale = select(1.0, min(1.0, p.max_norm / (norm + 1e-6)), p.max_norm > 0.0);
        if !(finite(total) && finite(loss)) {
            clip.frozen = 1u;
        }
        record[step.slot] = vec2f(loss, norm);
    }
}
