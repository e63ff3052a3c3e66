#!/usr/bin/env bash
# Sets this machine up, builds, and streams text from the embedded model. Arguments go to `mamba-wgpu generate`;
# without any, it continues a prompt of its own. Where the CPU writes, because the only GPU is one in software, the first tokens
# come again through that GPU's kernels, and it says whether both agree and how fast each was; not where flags are given
# (`--verify N` asks for it).
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
bash scripts/setup.sh
program() { cargo run --release --quiet -- "$@"; }

if [ "$#" -eq 0 ]; then
    set -- "It is a truth universally acknowledged, that"
fi
if [ "$#" -eq 1 ] && [[ "$1" != -* ]]; then
    adapters="$(program adapters)"
    # The second line is about the best one.
    case "$(sed -n 2p <<<"$adapters")" in
        *" in software,"*) set -- "$1" --verify 16 ;;
    esac
fi
program generate "$@"
