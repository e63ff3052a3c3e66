//! Threefry-2x32-20, the counter-based generator of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC'11),
//! as in Random123 and JAX. Twin of the function in `shaders/shared/threefry.wgsl`: the same draws on every device.

/// Twenty rounds of Threefry-2x32 on `counter` under `key`.
pub fn threefry2x32(key: [u32; 2], counter: [u32; 2]) -> [u32; 2] {
    const ROTATIONS: [[u32; 4]; 2] = [[13, 15, 26, 6], [17, 29, 16, 24]];
    let keys = [key[0], key[1], 0x1BD1_1BDA ^ key[0] ^ key[1]];
    let mut x = [counter[0].wrapping_add(keys[0]), counter[1].wrapping_add(keys[1])];
    for group in 0..5 {
        for rotation in ROTATIONS[group % 2] {
            x[0] = x[0].wrapping_add(x[1]);
            x[1] = x[1].rotate_left(rotation) ^ x[0];
        }
        x[0] = x[0].wrapping_add(keys[(group + 1) % 3]);
        x[1] = x[1].wrapping_add(keys[(group + 2) % 3]).wrapping_add(group as u32 + 1);
    }
    x
}

/// The `step`-th uniform number in [0, 1) of `seed`, a multiple of 2^-24: the same in `f32` everywhere.
pub fn uniform(seed: u64, step: u32) -> f32 {
    let [bits, _] = threefry2x32([seed as u32, (seed >> 32) as u32], [step, 0]);
    (bits >> 8) as f32 * (1.0 / 16_777_216.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Random123's kat_vectors, "threefry2x32 20".
    #[test]
    fn known_answers() {
        assert_eq!(threefry2x32([0, 0], [0, 0]), [0x6b20_0159, 0x99ba_4efe]);
        assert_eq!(threefry2x32([u32::MAX; 2], [u32::MAX; 2]), [0x1cb9_96fc, 0xbb00_2be7]);
        let pi = threefry2x32([0x1319_8a2e, 0x0370_7344], [0x243f_6a88, 0x85a3_08d3]);
        assert_eq!(pi, [0xc492_3a9c, 0x483d_f7a0]);
    }

    #[test]
    fn uniform_fills_the_unit_interval() {
        let draws: Vec<f32> = (0..4096).map(|step| uniform(7, step)).collect();
        assert!(draws.iter().all(|r| (0.0..1.0).contains(r)));
        let mean = draws.iter().sum::<f32>() / 4096.0;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
        // Both halves of the seed matter, and so does the step.
        assert_ne!(uniform(7, 0), uniform(7 + (1 << 32), 0));
        assert_ne!(uniform(7, 0), uniform(7, 1));
        assert_eq!(uniform(0, 0), (0x6b_2001 as f32) / 16_777_216.0);
    }
}
