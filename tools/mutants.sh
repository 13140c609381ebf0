#!/usr/bin/env bash
# Changes the Rust sources one place at a time (cargo-mutants) and runs the tests that have to notice. What they miss is
# listed in FOLDER/mutants.out/missed.txt.
#   tools/mutants.sh FOLDER prune|session|cpu|model|gpu [OPTION OF CARGO-MUTANTS...]
# .cargo/mutants.toml has the mutants that are left out, with reasons.
set -euo pipefail
cd "$(dirname "$0")/.."
[[ $# -ge 2 ]] || { sed -n '2,5s/^# //p' "$0" >&2; exit 2; }

# The cheapest tests that have to notice.
case $2 in
  prune) files=('src/prune/**' src/perplexity.rs) tests=(calibrate golden history invalid_calls method sequences session) ;;
  session) files=('src/session/**') tests=(calibrate generate golden gpu invalid_calls sequences session) ;;
  cpu) files=('src/cpu/**') tests=(cpu_ops golden gpu_ops method session) ;;
  model) files=('src/model/**') tests=(calibrate golden history invalid_calls sequences session) ;;
  gpu) files=('src/gpu/**') tests=(gpu gpu_model gpu_ops) ;;
  *) echo "no part $2" >&2; exit 2 ;;
esac
export PROBEPRUNE_NO_NVCC=1
tests=(--lib "${tests[@]/#/--test=}")
exec cargo mutants --output "$1" "${files[@]/#/--file=}" "${tests[@]/#/--cargo-arg=}" "${@:3}"
