#!/usr/bin/env bash
# Runs every property test with random seeds and prints each seed; a failing input is kept in a file proptest-regressions
# beside its test, which is to be committed: from then on every run tries it first.
#   tools/property-tests.sh RUNS [FILTER]
# A run again: PROPTEST_RNG_SEED=SEED cargo test --release --workspace. Other runs take the seed of .cargo/config.toml.
set -euo pipefail
cd "$(dirname "$0")/.."
[[ "${1:-}" =~ ^[0-9]+$ ]] || { sed -n '2,5s/^# //p' "$0" >&2; exit 2; }

targets=(--lib)
for file in $(grep -l '^proptest! {' tests/*.rs emu/tests/*.rs); do
  targets+=(--test "$(basename "$file" .rs)")
done
for ((run = 1; run <= $1; run++)); do
  PROPTEST_RNG_SEED=$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')
  export PROPTEST_RNG_SEED
  echo "run $run: PROPTEST_RNG_SEED=$PROPTEST_RNG_SEED"
  cargo test --quiet --release --locked --workspace "${targets[@]}" "${2:-}"
done
