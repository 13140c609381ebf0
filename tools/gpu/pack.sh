#!/usr/bin/env bash
# Builds everything that tools/gpu/run.sh runs on a machine with a GPU, into one folder:
#   tools/gpu/pack.sh [FOLDER]      (target/gpu-pack)
# Copy the folder there (any Linux of the same processor type with a glibc as new as this one), then: ./run.sh out.json
# Needs Rust, a C compiler, python3, and nvcc (found or installed as in tools/cuda.sh).
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
out=$(realpath -m "${1:-target/gpu-pack}")
most=60 # MB
marker=package.txt
if [[ -e $out && ! -e $out/$marker ]]; then
  echo "$out is there and was not made by this script" >&2
  exit 1
fi
rm -rf "$out"
mkdir -p "$out/bin" "$out/tree"
: >"$out/$marker"

NVCC=$(tools/cuda.sh nvcc)
export NVCC

# Test programs look for their data in the folder they were compiled in. They are compiled through this link, which run.sh
# makes again, to the folder tree/. One at a time: the link is everybody's.
source=/tmp/probeprune-source
exec 9>"$source.lock"
flock 9
[[ ! -e $source || -L $source ]] || { echo "$source is in the way" >&2; exit 1; }
ln -sfn "$root" "$source"

# A build folder of its own: cargo would take what it built in the real folder for this.
export CARGO_PROFILE_RELEASE_DEBUG=false CARGO_PROFILE_RELEASE_STRIP=symbols

# name in bin/, cargo's name for it, cargo's arguments
build() {
  local program
  program=$(cargo "${@:3}" --locked --message-format=json-render-diagnostics \
    --manifest-path "$source/Cargo.toml" --target-dir "$root/target/gpu-build" | python3 -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message["reason"] == "compiler-artifact" and message["target"]["name"] == sys.argv[1] and message["executable"]:
        print(message["executable"])' "$2")
  cp "$program" "$out/bin/$1"
}

export PROBEPRUNE_COMMIT=$(git rev-parse HEAD)
build probeprune probeprune build --release --bin probeprune
build probeprune-latency probeprune-latency build --release --bin probeprune-latency
build conformance_gpu conformance_gpu build --release -p ptx-emu --features gpu --example conformance_gpu
for test in gpu_ops gpu gpu_model; do
  if [[ -e tests/$test.rs || -e tests/$test/main.rs ]]; then
    build $test $test test --release --test $test --no-run
  fi
done
for bench in benches/*.rs; do
  bench=$(basename "$bench" .rs)
  [[ $bench != cpu ]] || continue
  build "bench-$bench" "$bench" bench --bench "$bench" --features cublas --no-run
done

# The bundled models are in the programs.
data=(cuda/ptx emu/kernels/ptx)
! LC_ALL=C grep -q tests/golden "$out"/bin/* || data+=(tests/golden)
for data in "${data[@]}"; do
  mkdir -p "$out/tree/$(dirname $data)"
  cp -r $data "$out/tree/$data"
done
cp tools/gpu/run.sh "$out/run.sh"

{
  echo "source: $source"
  echo "commit: $(git rev-parse HEAD)$([[ -z $(git status --porcelain) ]] || echo ' with changes')"
  echo "rustc: $(rustc --version)"
  echo "nvcc: $("$NVCC" --version | sed -n 's/.*\(release.*\)/\1/p')"
  echo "glibc: $(ldd --version | sed -n '1s/.* //p')"
  if [[ -e build.rs ]]; then echo 'kernels: fatbins in probeprune'; else echo 'kernels: none in probeprune (no build.rs)'; fi
} >"$out/$marker"

size=$(du -sm "$out" | cut -f1)
cat "$out/$marker"
ls -s --block-size=1M "$out/bin"
echo "$out: $size MB"
if ((size > most)); then
  echo "more than $most MB" >&2
  exit 1
fi
