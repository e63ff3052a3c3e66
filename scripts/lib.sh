# shellcheck shell=bash
# Shared by the scripts beside it: sourced, not run. Leaves the shell in the repository's root.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '%s\n' "$*" >&2; }
fail() {
    say "error: $*"
    exit 1
}
has() { command -v "$1" >/dev/null 2>&1; }

# Runs a command as root: directly, or through sudo.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif has sudo; then
        sudo "$@"
    else
        say "This needs root, and there is no sudo. Run as root: $*"
        return 1
    fi
}

# apt_install PACKAGE...: Debian and its kin. Fails, with a message, where apt is not to be had. What apt and dpkg print
# is shown only if they fail.
apt_install() {
    if ! has apt-get; then
        say "There is no apt-get here. Install what corresponds to these Debian packages: $*"
        return 1
    fi
    say "Installing with apt: $*"
    local log
    log="$(mktemp)"
    if ! apt_install_loudly "$@" </dev/null >"$log" 2>&1; then
        cat "$log" >&2
        rm -f "$log"
        return 1
    fi
    rm -f "$log"
}

apt_install_loudly() {
    # sudo asks for its password on the terminal, not on these streams.
    as_root apt-get update &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
}
