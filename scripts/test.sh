#!/usr/bin/env bash
# Sets this machine up and runs every check: format, lints, documentation, tests, and the page in a browser. With arguments
# only the native part, with `cargo test ARGUMENTS`.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
bash scripts/setup-tests.sh

step() {
    say "== $*"
    "$@"
}

step cargo fmt --check
step cargo clippy --all-targets -- -D warnings
RUSTDOCFLAGS="-D warnings" step cargo doc --no-deps

log="$(mktemp)"
trap 'rm -f "$log"' EXIT
status=0
# --no-fail-fast: one run shows every failure.
step cargo test --no-fail-fast "$@" 2>&1 | tee "$log" || status=$?

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
