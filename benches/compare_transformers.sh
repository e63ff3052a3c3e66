#!/usr/bin/env bash
# Decoding the embedded model: mamba-wgpu against transformers (PyTorch, CPU) on this machine, on all cores.
#
#   benches/compare_transformers.sh [--python PATH | --venv DIR] [options of compare_transformers.py]
#
# Makes a virtual environment with PyTorch and transformers at the versions below, in DIR, or in a temporary folder that
# goes away afterwards. --python takes an interpreter that has them already. Builds the release program unless
# --program names one. Not part of CI: it downloads about 250 MB.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

torch=2.11.0
transformers=5.23.0

say() { printf '%s\n' "$*" >&2; }
needs_value() {
    [ "$#" -ge 2 ] && return
    say "error: $1 needs a value"
    exit 2
}

python='' venv='' program=''
arguments=()
while [ "$#" -gt 0 ]; do
    case "$1" in
    --python | --venv | --program) needs_value "$@" ;;&
    --python) python="$2" && shift 2 ;;
    --venv) venv="$2" && shift 2 ;;
    --program) program="$2" && shift 2 ;;
    -h | --help)
        sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
        exec python3 benches/compare_transformers.py --help
        ;;
    *) arguments+=("$1") && shift ;;
    esac
done

if [ -z "$program" ]; then
    say "Building the release program"
    cargo build --release --locked --bin mamba-wgpu >&2
    program="${CARGO_TARGET_DIR:-target}/release/mamba-wgpu"
fi

if [ -z "$python" ]; then
    if [ -z "$venv" ]; then
        venv="$(mktemp -d)"
        trap 'rm -rf "$venv"' EXIT
    fi
    python="$venv/bin/python"
    if ! "$python" -c 'import torch, transformers' 2>/dev/null; then
        say "Installing PyTorch $torch and transformers $transformers to $venv"
        python3 -m venv "$venv"
        install() { "$python" -m pip install --quiet --disable-pip-version-check --no-input "$@" >&2; }
        # PyTorch's own index has it without CUDA; where that cannot be reached, the registry's is far larger.
        install --index-url https://download.pytorch.org/whl/cpu "torch==$torch" || install "torch==$torch"
        install "transformers==$transformers"
    fi
fi

"$python" benches/compare_transformers.py --program "$program" ${arguments[@]+"${arguments[@]}"}
