#!/usr/bin/env bash
# Builds the page and the native program, and runs the end-to-end tests: the page and the package in headless Chromium, on
# SwiftShader's WebGPU, served from 127.0.0.1. Needs what scripts/setup-tests.sh installs.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

bash web/build.sh
# The native program, whose results the browser's are compared with.
cargo build --features "${NATIVE_FEATURES:-default}"
# One file at a time: two software GPUs on the same cores would only wait for each other.
exec node --test --test-concurrency=1 --test-reporter=spec \
    web/e2e/{types,download,start,cache,auto,page,explain,train,package,settings}.test.mjs
