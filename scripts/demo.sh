#!/usr/bin/env bash
# Sets this machine up, builds, and streams text from the embedded model. Arguments go to `mamba-wgpu generate`;
# without any, it continues a prompt of its own.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
bash scripts/setup.sh
if [ "$#" -eq 0 ]; then
    set -- "It is a truth universally acknowledged, that"
fi
exec cargo run --release --quiet -- generate "$@"
