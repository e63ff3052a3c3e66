// What the host writes before each step, and what the step decides for itself.
struct Step {
    loss_scale: f32,    // 1 / targets that count
    learning_rate: f32,
    correction1: f32,   // 1 - beta1^t
    correction2: f32,   // sqrt(1 - beta2^t)
    slot: u32,          // of the record
}
struct Clip {
    scale: f32,         // of the gradient
    frozen: u32,
}
