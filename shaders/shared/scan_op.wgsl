// The scan operator on pairs (a, b) that stand for h -> a h + b (Mamba paper, section 3.3.2; Blelloch 1990, section 1.4).
// combine(e0, e1) = (a1 a0, a1 b0 + b1), e0 the earlier element. Associative, not commutative; identity (1, 0).
struct ScanElement { a: f32, b: f32 }

fn combine(e0: ScanElement, e1: ScanElement) -> ScanElement {
    return ScanElement(e1.a * e0.a, fma(e1.a, e0.b, e1.b));
}

// The same on four states of one channel at once.
struct ScanElement4 { a: vec4f, b: vec4f }

fn combine4(e0: ScanElement4, e1: ScanElement4) -> ScanElement4 {
    return ScanElement4(e1.a * e0.a, fma(e1.a, e0.b, e1.b));
}
