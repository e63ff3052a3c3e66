#!/usr/bin/env bash
# Trains what docs/claims.md reports and evaluates it: `scripts/claims.sh OUT [copying|heads|recall|step ...]`, all without names.
# Some ten minutes on an H100. ADAPTER chooses one of several GPUs, so that two can share the work.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
out="${1:?where runs go}"
shift
[ "$#" -gt 0 ] || set -- copying heads recall step
for claim in "$@"; do
    case "$claim" in
        copying | heads | recall | step) ;;
        *) fail "$claim: copying, heads, recall or step" ;;
    esac
done
program="${MAMBA_WGPU:-target/release/mamba-wgpu}"
[ -n "${MAMBA_WGPU:-}" ] || cargo build --release --bin mamba-wgpu
gpu=(${ADAPTER:+--adapter "$ADAPTER"})

# A run that is there already is left as it is.
train() {
    local run="$out/$1"
    shift
    if [ -e "$run" ]; then
        say "== $run is there"
        return
    fi
    say "== train $*"
    "$program" train --out "$run" --log-every 100 "${gpu[@]}" "$@"
}

for claim in "$@"; do
    case "$claim" in
        copying)
            recipe=(--task selective-copying --lr 1e-3 --batch 8 --steps 20000 --warmup 500 --schedule cosine)
            train copying "${recipe[@]}"
            train copying-lti "${recipe[@]}" --lti
            ;;
        heads)
            train heads --task induction-heads --seed 1
            "$program" eval --model "$out/heads" --length 2^8,2^10,2^14,2^17,2^20 "${gpu[@]}"
            train heads-lti --task induction-heads --steps 12000 --lti
            ;;
        recall)
            train recall --task associative-recall --every --stop-at-accuracy 0.998
            train recall-lti --task associative-recall --every --steps 5250 --lti
            ;;
        step) "$program" bench training "${gpu[@]}" ;;
    esac
done
