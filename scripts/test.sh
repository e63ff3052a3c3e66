#!/usr/bin/env bash
# Sets this machine up and runs every check: format, lints, documentation, tests, the window, and the page in a browser. With
# arguments only the native part, with `cargo test ARGUMENTS`.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
bash scripts/setup-tests.sh

step() {
    say "== $*"
    "$@"
}

step cargo fmt --check
# Nobody gets a window's crates who did not ask for a window.
no_gui_crates() {
    local crates
    crates="$(cargo tree --edges normal --prefix none --target all)" || return
    ! grep -E '^(eframe|egui|winit|rfd) ' <<<"$crates"
}

step no_gui_crates || fail "a build without the feature app pulls the crates above"
step cargo clippy --all-targets -- -D warnings
step cargo clippy --features app --bin mamba-wgpu --test app -- -D warnings
RUSTDOCFLAGS="-D warnings" step cargo doc --no-deps

# The same random cases in each run of CI, so that what fails there was brought by the change; other machines draw new ones.
[ -z "${CI:-}" ] || export PROPTEST_RNG_SEED="${PROPTEST_RNG_SEED:-20261130}"

# With the window, here and in test-web.sh: crates that it shares with wgpu have more features then, and all of them are built once.
export NATIVE_FEATURES=app
log="$(mktemp)"
trap 'rm -f "$log"' EXIT
status=0
# --no-fail-fast: one run shows every failure.
step cargo test --no-fail-fast --features "$NATIVE_FEATURES" "$@" 2>&1 | tee "$log" || status=$?

if [ "$#" -eq 0 ]; then
    step bash scripts/test-web.sh 2>&1 | tee -a "$log" || status=$?
fi

# cargo closes with the last test binary's line alone, node with lines of its own; this one is for all of them.
awk '/^test result: / { passed += $4; failed += $6; ignored += $8 }
     /^[^ ]+ pass [0-9]+$/ { passed += $3 }
     /^[^ ]+ (fail|cancelled) [0-9]+$/ { failed += $3 }
     /^[^ ]+ (skipped|todo) [0-9]+$/ { ignored += $3 }
     END { printf "total: %d passed, %d failed, %d skipped\n", passed, failed, ignored }' "$log"
exit "$status"
