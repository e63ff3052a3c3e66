#!/usr/bin/env bash
# Builds the browser's side to web/dist, which any static host serves: the page, the npm-shaped package (dist/pkg) and the
# demo's model. Needs rustup's wasm32-unknown-unknown target, or Debian's rustc-web, which is installed if need be.
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/lib.sh"

TARGET=wasm32-unknown-unknown
DIST=web/dist
CRATE="${CARGO_TARGET_DIR:-target}-wasm"
TOOLS="${CARGO_TARGET_DIR:-target}-bindgen"
# Every browser with WebGPU has wasm's 128-bit vectors; the CPU twins want them.
export RUSTFLAGS="-C target-feature=+simd128"

build_arguments=(rustc --lib --crate-type cdylib --no-default-features --features web --profile web --target "$TARGET")
# LLVM's own limit of 250 copies functions into each other that are run once a model. With 25 the wasm is an eighth smaller; of the twins
# (in Node) a prompt takes a tenth longer than with 45, which is 28 KB more, and a decode step as long.
code_arguments=(-- -C llvm-args=-inline-threshold=25)

rustup_target_is_there() {
    local sysroot
    sysroot="$(rustc --print sysroot 2>/dev/null)" && [ -d "$sysroot/lib/rustlib/$TARGET/lib" ]
}

# lld, which links wasm: on PATH, or the copy that comes with a rustup toolchain.
lld() {
    local sysroot toolchain copy
    if has wasm-ld; then
        command -v wasm-ld
        return
    fi
    sysroot="$(rustc --print sysroot 2>/dev/null || true)"
    for toolchain in "$sysroot" "${RUSTUP_HOME:-$HOME/.rustup}"/toolchains/*; do
        copy="$(find "$toolchain/lib/rustlib" -path '*/bin/rust-lld' 2>/dev/null | head -n 1)"
        if [ -n "$copy" ]; then
            echo "$copy"
            return
        fi
    done
    return 1
}

compile_with_rustup() {
    CARGO_TARGET_DIR="$CRATE" cargo "${build_arguments[@]}" "${code_arguments[@]}"
}

# Debian's compiler for the web has no precompiled standard library for this target: it is built from rust-web-src.
compile_with_debian() {
    if ! [ -e /usr/lib/rustlib/src/rust/library/Cargo.toml ] || ! [ -x /usr/bin/cargo ] || ! [ -x /usr/bin/rustc ]; then
        say "There is no $TARGET target here (rustup target add $TARGET would be the other way)."
        apt_install rustc-web cargo-web rust-web-src || fail "building for the web needs rustc-web cargo-web rust-web-src"
    fi
    local linker
    if ! linker="$(lld)"; then
        apt_install lld || fail "linking wasm needs lld"
        linker="$(command -v wasm-ld)"
    fi
    # The feature build-std is not stable; this compiler is told to allow it.
    PATH="/usr/bin:$PATH" RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR="$CRATE" \
        CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER="$linker" \
        /usr/bin/cargo "${build_arguments[@]}" -Z build-std=std,panic_abort "${code_arguments[@]}"
}

# wasm-bindgen's generator must be of the library's version: the one on PATH if it is, else web/bindgen.
bind() {
    local wanted
    wanted="$(awk '/^name = "wasm-bindgen"$/ { getline; gsub(/[^0-9.]/, ""); print }' Cargo.lock)"
    if has wasm-bindgen && [ "$(wasm-bindgen --version)" = "wasm-bindgen $wanted" ]; then
        wasm-bindgen --target web --remove-name-section --remove-producers-section --out-dir "$2" "$1"
        return
    fi
    grep -q "wasm-bindgen-cli-support = \"=$wanted\"" web/bindgen/Cargo.toml ||
        fail "Cargo.lock has wasm-bindgen $wanted: pin the same version in web/bindgen/Cargo.toml"
    RUSTFLAGS="" CARGO_TARGET_DIR="$TOOLS" cargo build --release --locked --manifest-path web/bindgen/Cargo.toml
    "$TOOLS/release/mamba-wgpu-bindgen" "$1" "$2"
}

# The pinned wasm-opt that scripts/setup-tests.sh installs, or the one on PATH.
optimise() {
    local flags=(--enable-simd --enable-bulk-memory --enable-sign-ext --enable-nontrapping-float-to-int --enable-mutable-globals --enable-reference-types --enable-multivalue)
    local tool=.tools/web/node_modules/.bin/wasm-opt
    [ -x "$tool" ] && has node || tool=wasm-opt
    if has "$tool" && "$tool" -O2 "${flags[@]}" "$1" -o "$1.opt" 2>/dev/null; then
        mv "$1.opt" "$1"
    else
        rm -f "$1.opt"
        say "Left as the compiler made it: no wasm-opt (scripts/setup-tests.sh installs it), or one too old for this file."
    fi
}

# Writes into the package's two halves, and so into what they say to each other, which build they are of: the commit, if the
# wasm names one, and a hash of all files.
stamp() {
    local commit build
    commit="$(git rev-parse HEAD 2>/dev/null || true)"
    [ -n "$commit" ] && grep -qaF "$commit" "$2" || commit=""
    build="$commit-$(cat "$1"/*.js "$1"/wasm/* | cksum | tr " " "-")"
    sed -i.bak "s/__BUILD__/$build/" "$1/index.js" "$1/host.js"
    rm "$1"/*.bak
}

has cargo || fail "cargo was not found: install Rust 1.88 or later (https://rustup.rs)"
say "== compiling to wasm"
if rustup_target_is_there; then
    compile_with_rustup
else
    compile_with_debian
fi

say "== assembling $DIST"
rm -rf "$DIST"
mkdir -p "$DIST/pkg/wasm" "$DIST/models/austen-4m"
bind "$CRATE/$TARGET/web/mamba_wgpu.wasm" "$DIST/pkg/wasm"
wasm="$DIST/pkg/wasm/mamba_wgpu_bg.wasm"
optimise "$wasm"
cp web/pkg/*.js web/pkg/*.ts web/pkg/package.json web/pkg/README.md "$DIST/pkg/"
stamp "$DIST/pkg" "$wasm"
cp -R web/page/. "$DIST/"
mkdir "$DIST/explain"
cp src/explain/view.{js,css} "$DIST/explain/"
cp models/austen-4m/{config.json,tokenizer.json,model.safetensors} "$DIST/models/austen-4m/"
# What every published folder has and is asked for: without them the browser's console would show them as missing.
echo '{"bos_token_id": 0, "eos_token_id": 0}' >"$DIST/models/austen-4m/generation_config.json"
echo '{"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}' \
    >"$DIST/models/austen-4m/tokenizer_config.json"

# A budget for what travels. How well a wasm packs depends on the tools that made it: only CI, whose are known, is strict.
bytes="$(gzip -9 -c "$wasm" | wc -c)"
say "$wasm: $(wc -c <"$wasm") bytes, $bytes gzipped"
if [ "$bytes" -gt 1400000 ]; then
    [ "${CI:-}" != true ] || fail "the wasm is over its budget of 1,400,000 bytes gzipped"
    say "warning: that is over its budget of 1,400,000 bytes gzipped"
fi
