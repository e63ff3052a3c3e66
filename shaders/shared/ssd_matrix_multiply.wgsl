    // The middle of a kernel's main: multiplies `terms` terms, whole SLICEs, and stores the tile's first `rows` and `columns` to `out`
    // from out0 on, rows `stride` apart. All of these are the same for a whole workgroup.
    let subgroup = lid / 32u;
    let row0 = subgroup / 2u * 32u;
    let column0 = subgroup % 2u * 32u;
#repeat r 2
#repeat c 2
    var sum_${r}_${c}: coop_mat16x16<f32, C>;
#end
#end
    // Spelt out, each in a variable of its own: what only an unrolled loop keeps in registers may end in memory.
#repeat i LOADS_A
    let i_a_${i} = lid + ${i}u * THREADS;
    var next_a_${i} = load_a(i_a_${i}, 0u);
    let row_${i} = row_a(i_a_${i});
    let term_a_${i} = term_a(i_a_${i});
    let to_a_${i} = at_a(row_${i}, term_a_${i});
#end
#repeat i LOADS_B
    let i_b_${i} = lid + ${i}u * THREADS;
    var next_b_${i} = load_b(i_b_${i}, 0u);
    let term_b_${i} = term_b(i_b_${i});
    let to_b_${i} = at_b(term_b_${i}, column_b(i_b_${i}));
#end
    for (var k0 = 0u; k0 < terms; k0 += SLICE) {
#repeat i LOADS_A
        put_a(to_a_${i}, ready_a(next_a_${i}, row_${i}, k0 + term_a_${i}));
#end
#repeat i LOADS_B
        put_b(to_b_${i}, ready_b(next_b_${i}, k0 + term_b_${i}));
#end
        // Read before the barrier, so that it arrives while this slice is multiplied.
        if k0 + SLICE < terms {
#repeat i LOADS_A
            next_a_${i} = load_a(i_a_${i}, k0 + SLICE);
#end
#repeat i LOADS_B
            next_b_${i} = load_b(i_b_${i}, k0 + SLICE);
#end
        }
        workgroupBarrier();
        for (var k = 0u; k < SLICE; k += 16u) {
            for (var part = 0u; part < PARTS; part++) {
                let half_a = select(0u, QUADS_A, part == 2u);
                let half_b = select(0u, QUADS_B, part == 1u);
#repeat r 2
                let a_at_${r} = half_a + at_a(row0 + 16u * ${r}u, k);
#if ACROSS
                let a_${r} = coopLoad<coop_mat16x16<f16, A>>(&tile_a[a_at_${r}], PITCH_A);
#else
                let a_${r} = coopLoadT<coop_mat16x16<f16, A>>(&tile_a[a_at_${r}], PITCH_A);
#endif
#end
#repeat c 2
                let b_at_${c} = half_b + at_b(k, column0 + 16u * ${c}u);
#if ALONG
                let b_${c} = coopLoad<coop_mat16x16<f16, B>>(&tile_b[b_at_${c}], PITCH_B);
#else
                let b_${c} = coopLoadT<coop_mat16x16<f16, B>>(&tile_b[b_at_${c}], PITCH_B);
#endif
#repeat r 2
                sum_${r}_${c} = coopMultiplyAdd(a_${r}, b_${c}, sum_${r}_${c});
#end
#end
            }
        }
        workgroupBarrier();
    }
#repeat r 2
#repeat c 2
    let total_${r}_${c} = sum_${r}_${c};
#end
#end
#if STRIPS
    let direct = false;
#else
    // All of the workgroup goes one way or the other (naga sees that of &, not of &&).
    let direct = (rows >= ROWS) & (columns >= COLS);
    if direct {
#repeat r 2
#repeat c 2
        let to_${r}_${c} = out0 + (row0 + 16u * ${r}u) * stride + column0 + 16u * ${c}u;
        coopStoreT(total_${r}_${c}, &out[to_${r}_${c}], stride);
#end
#end
    }
#endif
    if !direct {
        // Through workgroup memory, where each invocation finds its own and leaves out what is past the edge.
        let strip = subgroup * 256u;
#repeat r 2
#repeat c 2
        coopStoreT(total_${r}_${c}, &strips[strip], 16u);
        workgroupBarrier();
        for (var i = lid % 32u; i < 256u; i += 32u) {
            let row = row0 + 16u * ${r}u + i / 16u;
            let column = column0 + 16u * ${c}u + i % 16u;
            if row < rows && column < columns {
                out[out0 + row * stride + column] = out_t(strips[strip + i]);
            }
        }
        workgroupBarrier();
#end
#end
    }
