#!/usr/bin/env bash
# Whether `mamba-wgpu bench` tells the truth on this machine's GPU: each suite alone, all of them, all in reverse order; then which
# rows differ by more than a tolerance. On a fast GPU it takes about thirteen minutes (five, four, four), in which nothing else should run.
#
#   scripts/prove-bench.sh FOLDER [alone|all|reversed|verdict]...
#
# Without steps, all of them. Reports that FOLDER has already are not measured again, so the steps can be run one by one.
# BIN: the program (target/release/mamba-wgpu). TOLERANCE: 5%. SCALE: a factor on all time limits (1; a slow GPU needs more).
# FOLDER ends with verdict.txt, all.json, reversed.json and alone.tar.gz. The exit code is 1 if any row differs.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -ge 1 ] || { sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }
folder=$1 && shift
steps=("$@") && [ $# -gt 0 ] || steps=(alone all reversed verdict)
bin=${BIN:-target/release/mamba-wgpu} tolerance=${TOLERANCE:-5%} scale=${SCALE:-1}
mkdir -p "$folder/alone"

suites=(scan matmul sampling prefill decode backward training)
declare -A seconds=([scan]=30 [matmul]=25 [sampling]=10 [prefill]=110 [decode]=45 [backward]=30 [training]=20 [all]=230)

# measure FILE SECONDS SUITE...: unless it was done before. A report is complete once it has its name.
measure() {
  local file=$1 limit
  limit=$(awk "BEGIN { print $2 * $scale }") && shift 2
  [ -s "$file" ] && return
  echo "$(date +%T) $* in $limit s"
  "$bin" bench "$@" --time-limit "$limit" --json "$file.part" >"$file.txt"
  mv "$file.part" "$file"
}

# compare A B: what differs, and the sum of it in the last line.
compare() { "$bin" bench compare "$1" "$2" --tolerance "$tolerance" || differs=1; }

verdict() {
  differs=0
  for suite in "${suites[@]}"; do
    for other in all reversed; do compare "$folder/alone/$suite.json" "$folder/$other.json"; done
  done
  compare "$folder/all.json" "$folder/reversed.json"
  if [ $differs = 0 ]; then
    echo "every row of all suites together is within $tolerance of its suite alone, in both orders"
  else
    echo "some rows differ by more than $tolerance"
  fi
}

for step in "${steps[@]}"; do
  case $step in
    alone) for suite in "${suites[@]}"; do measure "$folder/alone/$suite.json" "${seconds[$suite]}" "$suite"; done ;;
    all) measure "$folder/all.json" "${seconds[all]}" "${suites[@]}" ;;
    reversed) measure "$folder/reversed.json" "${seconds[all]}" $(printf '%s\n' "${suites[@]}" | tac) ;;
    verdict)
      verdict | tee "$folder/verdict.txt"
      tar -C "$folder" -czf "$folder/alone.tar.gz" alone
      grep -q '^every row' "$folder/verdict.txt" || exit 1 ;;
    *) echo "no step $step: there are alone, all, reversed, verdict" >&2; exit 2 ;;
  esac
done
