#!/usr/bin/env bash
# Installs what building and running mamba-wgpu needs and this machine lacks: a C compiler's linker, and a Vulkan
# driver (Mesa's software one where there is no other). What is there already is left alone.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# Drivers register themselves with the Vulkan loader by a JSON file in one of these places.
vulkan_driver_is_registered() {
    if [ -n "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ]; then
        return 0
    fi
    local folder file
    local folders="/etc:/usr/local/etc:${XDG_DATA_HOME:-${HOME:-/root}/.local/share}"
    folders="$folders:${XDG_DATA_DIRS:-/usr/local/share:/usr/share}"
    local IFS=:
    for folder in $folders; do
        for file in "$folder"/vulkan/icd.d/*.json; do
            if [ -e "$file" ]; then
                return 0
            fi
        done
    done
    return 1
}

vulkan_loader_is_there() {
    local ldconfig
    ldconfig="$(command -v ldconfig || echo /sbin/ldconfig)"
    "$ldconfig" -p 2>/dev/null | grep -q 'libvulkan\.so\.1'
}

set_up_rust() {
    if ! has cargo && [ -x "${HOME:-/root}/.cargo/bin/cargo" ]; then
        fail "cargo is in ~/.cargo/bin, which is not on PATH: run '. ~/.cargo/env' first"
    fi
    has cargo || fail "cargo was not found: install Rust 1.88 or later (https://rustup.rs)"
    if ! has cc; then
        [ "$(uname -s)" = Linux ] || fail "there is no C compiler (cc), whose linker Rust uses"
        apt_install gcc libc6-dev || fail "there is no C compiler (cc), whose linker Rust uses"
    fi
}

set_up_vulkan() {
    # macOS has Metal and Windows has DirectX.
    [ "$(uname -s)" = Linux ] || return 0
    local missing=()
    vulkan_loader_is_there || missing+=(libvulkan1)
    vulkan_driver_is_registered || missing+=(mesa-vulkan-drivers)
    if [ "${#missing[@]}" -gt 0 ]; then
        apt_install "${missing[@]}" || say "Going on without Vulkan: mamba-wgpu then runs on the CPU."
    fi
}

set_up_rust
set_up_vulkan
