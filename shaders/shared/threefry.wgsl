// Threefry-2x32 with 20 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): additions,
// rotations and xors only, the same bits on every adapter. Key = seed, counter = the sampled token's number.
fn threefry(key: vec2u, counter: vec2u) -> vec2u {
    let ks = vec3u(key, key.x ^ key.y ^ 0x1bd11bdau);
    var x = counter + ks.xy;
    for (var i = 0u; i < 5u; i++) {
        let r = select(vec4u(17u, 29u, 16u, 24u), vec4u(13u, 15u, 26u, 6u), i % 2u == 0u);
        for (var j = 0u; j < 4u; j++) {
            x.x += x.y;
            x.y = (x.y << r[j]) | (x.y >> (32u - r[j]));
            x.y ^= x.x;
        }
        x += vec2u(ks[(i + 1u) % 3u], ks[(i + 2u) % 3u] + i + 1u);
    }
    return x;
}

// A number in [0, 1) in units of 2^-32, a multiple of 2^-24.
fn uniform_bits(key: vec2u, counter: u32) -> u32 {
    return threefry(key, vec2u(counter, 0u)).x & 0xffffff00u;
}
