// An f32 as two f16: hi, the nearest one, and lo, what is left times LOW. A product of two such is hi hi + (hi lo + lo hi) / LOW;
// what is dropped, lo lo, is 2^-22 of it. Values above 65,504 become infinite, not wrong.
const LOW: f32 = 1024.0; // so that lo is no subnormal

// The nearest value with f16's eleven bits, by its bits: compilers may take f32(f16(v)) for v.
fn high(v: vec4f) -> vec4f {
    return bitcast<vec4f>((bitcast<vec4u>(v) + vec4u(0x1000u)) & vec4u(0xffffe000u));
}
