// With WATCH, values that f16 cannot hold are noticed where they are stored: what follows would be wrong without a
// word. The flag is read with what is read anyway (model/gpu/session.rs).
const LARGEST_F16: u32 = 0x477fe000u; // 65,504 in f32

#if WATCH
@group(0) @binding(9) var<storage, read_write> beyond: array<atomic<u32>>; // [0]: 1 once a value was
#endif

// By its bits: also infinities and NaN, which come of products that were beyond f16 before.
fn watch(x: f32) -> f32 {
#if WATCH
    if (bitcast<u32>(x) & 0x7fffffffu) > LARGEST_F16 { atomicStore(&beyond[0], 1u); }
#endif
    return x;
}
