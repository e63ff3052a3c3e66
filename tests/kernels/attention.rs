//! Attention's kernels: chunks and steps around the borders of tiles and pages, groups of heads, windows, rotations of
//! some columns; and the functions of MLPs.

use crate::harness::{devices, pass};
use mamba_wgpu::checks::attention::{activate, attention, attention_step, rope_store, scale_add, shape};
use mamba_wgpu::checks::data::Random;
use mamba_wgpu::gpu::shader::NumberFormat;
use mamba_wgpu::kernels::{longest_text, Activation};

/// Heads, heads of keys and values, columns of a head: those of published models and odd ones, with groups that are cut
/// into blocks of several sizes.
const HEADS: [(usize, usize, usize); 9] =
    [(1, 1, 4), (4, 2, 32), (5, 1, 64), (2, 2, 80), (6, 2, 96), (10, 1, 128), (3, 1, 136), (7, 1, 256), (17, 1, 20)];

#[test]
fn a_chunk_is_the_twins() {
    let mut random = Random(51);
    for (device, gpu) in devices() {
        // (tokens before, tokens): the first of a text, whole tiles, one token, across pages.
        let chunks = [(0, 1), (0, 64), (0, 65), (0, 257), (255, 1), (256, 2), (200, 130), (511, 3), (513, 70)];
        for (i, (heads, kv_heads, head_dim)) in HEADS.into_iter().enumerate() {
            for chunk in [chunks[i], chunks[(i + 4) % chunks.len()]] {
                for window in [0, [1, 3, 64, 65, 100, 255, 256, 257, 1000][i]] {
                    pass(device, attention(gpu, (heads, kv_heads, head_dim, window), chunk, &mut random));
                }
            }
        }
        for chunk in chunks {
            pass(device, attention(gpu, (2, 1, 8, 0), chunk, &mut random));
            pass(device, attention(gpu, (2, 1, 8, 130), chunk, &mut random));
        }
    }
}

#[test]
fn a_step_of_texts_is_the_twins() {
    let mut random = Random(52);
    for (device, gpu) in devices() {
        for (i, (heads, kv_heads, head_dim)) in HEADS.into_iter().enumerate() {
            let positions: &[usize] = [&[0][..], &[255], &[256, 3], &[254, 512, 1], &[511]][i % 5];
            for window in [0, [1, 3, 64, 255, 256, 257, 300, 513, 1000][i]] {
                pass(device, attention_step(gpu, (heads, kv_heads, head_dim, window), positions, &mut random));
            }
        }
        for position in [0, 1, 254, 255, 256, 257, 511, 512, 513, 1300] {
            pass(device, attention_step(gpu, (4, 2, 8, 0), &[position], &mut random));
            pass(device, attention_step(gpu, (4, 2, 8, 256), &[position, 7, 700], &mut random));
        }
    }
}

/// More pages than parts on any device, and more texts than there would be workgroups for parts.
#[test]
fn long_texts_and_many_of_them() {
    let mut random = Random(53);
    for (device, gpu) in devices() {
        pass(device, attention_step(gpu, (1, 1, 4, 0), &[70 * 256 + 5], &mut random));
        pass(device, attention_step(gpu, (1, 1, 4, 1100), &[70 * 256 + 5], &mut random));
        pass(device, attention(gpu, (1, 1, 4, 0), (40 * 256 + 5, 66), &mut random));
        let positions: Vec<usize> = (0..150).map(|i| i * 7 % 600).collect();
        pass(device, attention_step(gpu, (2, 2, 4, 0), &positions, &mut random));
    }
}

/// No norms of queries and keys.
const NONE: (bool, bool) = (false, false);

#[test]
fn heads_turn_and_are_kept() {
    let mut random = Random(54);
    for (device, gpu) in devices() {
        for (sizes, rotary_dim) in [((1, 1, 4, 0), 4), ((4, 2, 20, 0), 12), ((3, 1, 64, 0), 0), ((2, 2, 80, 0), 80)] {
            for (position, l) in [(0, 1), (0, 257), (255, 1), (254, 5), (256, 256), (500, 20)] {
                pass(device, rope_store(gpu, sizes, (rotary_dim, NONE), (&[position], l), &mut random));
            }
            for norms in [NONE, (true, false), (false, true), (true, true)] {
                pass(device, rope_store(gpu, sizes, (rotary_dim, norms), (&[255], 3), &mut random));
                pass(device, rope_store(gpu, sizes, (rotary_dim, norms), (&[255, 0, 256, 511], 1), &mut random));
            }
        }
        // Where f32 would know no angle.
        pass(device, rope_store(gpu, (2, 1, 4, 0), (4, NONE), (&[1_048_570], 6), &mut random));
        pass(device, rope_store(gpu, (2, 1, 4, 0), (4, NONE), (&[131_071, 5, 300_000], 1), &mut random));
    }
}

#[test]
fn rows_are_scaled_and_added_as_by_the_twin() {
    let mut random = Random(56);
    for (device, gpu) in devices() {
        for sizes in [(0, 4), (1, 1), (3, 67), (70, 1029)] {
            pass(device, scale_add(gpu, sizes, &mut random));
        }
    }
}

#[test]
fn functions_of_mlps_are_their_twins() {
    let mut random = Random(55);
    for (device, gpu) in devices() {
        let formats = [NumberFormat::F32, NumberFormat::F16];
        for f in Activation::ALL {
            for gated in [false, true] {
                for sizes in [(0, 4), (1, 1), (3, 67), (70, 129)] {
                    let plain = (NumberFormat::F32, NumberFormat::F32);
                    pass(device, activate(gpu, f, sizes, gated, plain, &mut random));
                }
                for x in formats.into_iter().filter(|_| gpu.shader_f16()) {
                    pass(device, activate(gpu, f, (5, 66), gated, (x, NumberFormat::F16), &mut random));
                }
            }
        }
    }
}

/// As long as a text may be on this adapter: loops that a driver cut short would show.
#[test]
fn the_longest_texts() {
    let mut random = Random(56);
    let (device, gpu) = &devices()[0];
    for (head_dim, window) in [(4, 0), (4, 16_000), (12, 0), (64, 0)] {
        let sizes = (1, 1, head_dim, window);
        let last = longest_text(gpu, &shape(sizes)).min(200_000) - 1;
        pass(device, attention(gpu, sizes, (last, 1), &mut random));
        pass(device, attention_step(gpu, sizes, &[last], &mut random));
    }
}
