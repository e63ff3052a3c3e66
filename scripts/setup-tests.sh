#!/usr/bin/env bash
# Installs what the tests need beside the program: the shader checkers, a browser with what drives it, and a virtual display.
# glslangValidator, Chromium and Xvfb come from apt; spirv-val and DXC (Python wheels), Tint, Playwright and wasm-opt (npm packages) go to
# .tools/, at the versions that tests/tools and web/e2e pin.
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
    # A display without a screen, for the window's test.
    has Xvfb || missing+=(xvfb)
    # The tests of the page take the one that CHROMIUM names, if any. Fonts: a page without any shows boxes.
    [ -n "${CHROMIUM:-}" ] || [ -x /usr/bin/chromium ] || [ -x /usr/bin/google-chrome ] || missing+=(chromium fonts-noto-core)
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

# set_up_npm WHAT FOLDER TO: the packages that FOLDER's lock file pins.
set_up_npm() {
    local pin="$2/package-lock.json"
    up_to_date "$3" "$pin" && return
    say "Installing $1 to $3 (npm)"
    rm -rf "$3"
    mkdir -p "$3"
    cp "$2/package.json" "$pin" "$3/"
    # No script is needed: Tint's only one lifts a quarantine of macOS, Playwright would fetch a browser.
    (cd "$3" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error </dev/null >&2)
    cp "$pin" "$3/pin"
}

set_up_rust_components
set_up_apt_tools
set_up_wheels
set_up_npm Tint tests/tools .tools/tint
set_up_npm "Playwright, TypeScript and wasm-opt" web/e2e .tools/web
