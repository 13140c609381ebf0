#!/usr/bin/env bash
# Packs everything that tools/gpu/run.sh runs on a machine with a GPU into one archive:
#   tools/gpu/pack.sh FILE.tar.zst
# Programs with the kernels' machine code, their PTX, the stand-in for libcuda.so, and the peers' Python scripts. It runs on
# any Linux of the same processor type with a glibc as new as this one; nothing is compiled or fetched there.
# Needs Rust, a C compiler with binutils, python3, zstd, and nvcc (found or installed as in tools/kernels/cuda.sh).
set -euo pipefail
file=$(realpath -m "${1:?usage: tools/gpu/pack.sh FILE.tar.zst}")
cd "$(dirname "$0")/../.."
most=25 # MB

NVCC=$(tools/kernels/cuda.sh nvcc)
# Whoever builds everything else without machine code wants it here.
unset PROBEPRUNE_NO_NVCC
# The commit is in what probeprune-latency prints.
export NVCC PROBEPRUNE_COMMIT=$(git rev-parse HEAD)

tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir -p "$tree/bin" "$tree/cuda" "$tree/emu/kernels"

# cargo's arguments; copies what its messages name to bin/.
build() {
  cargo "$@" --release --locked --message-format=json-render-diagnostics | python3 -c '
import json, os, shutil, sys
# Of programs and examples there may also be a test harness, which is not wanted.
prefixes = {("test", True): "", ("bench", True): "bench-", ("bin", False): "", ("example", False): ""}
for line in sys.stdin:
    message = json.loads(line)
    if message["reason"] != "compiler-artifact":
        continue
    target = message["target"]
    prefix = prefixes.get((target["kind"][0], message["profile"]["test"]))
    libraries = [name for name in message["filenames"] if name.endswith(".so")]
    if message["executable"] and prefix is not None:
        shutil.copy(message["executable"], os.path.join(sys.argv[1], prefix + target["name"]))
    elif libraries and "cdylib" in target["crate_types"]:
        shutil.copy(libraries[0], sys.argv[1])' "$tree/bin"
}

build test --no-run --workspace --test gpu_ops --test gpu --test gpu_model --test gpu_large --bench kernels --bench cpu
build build --workspace --example goals --example conformance_gpu --example emulated_cublas
strip "$tree"/bin/*

programs=(probeprune probeprune-latency gpu_ops gpu gpu_model gpu_large conformance_gpu bench-kernels bench-cpu
  libgoals.so libemulated_cuda.so libemulated_cublas.so)
for program in "${programs[@]}"; do
  [[ -e $tree/bin/$program ]] || { echo "cargo built no $program" >&2; exit 1; }
done
"$tree/bin/probeprune" doctor | grep '^GPU kernels .* made by CUDA' ||
  { echo "the programs have no machine code" >&2; exit 1; }
# Data that a program looks for where it was compiled would not be there. Line tables of kernels name cuda/ and nvcc's own.
if LC_ALL=C grep -aoE "$PWD/(benches|emu|models|src|target|tests|tools)[^ ]{0,80}" "$tree"/bin/*; then
  echo "these paths are in the programs" >&2
  exit 1
fi
cp -r cuda/ptx "$tree/cuda/ptx"
cp -r emu/kernels/ptx "$tree/emu/kernels/ptx"
mkdir "$tree/peers"
cp tools/peers/*.py tools/golden/oracle_model.py "$tree/peers/"
cp -r tools/gpu/{run.sh,steps.sh,find_libraries.py,stand-in} "$tree/"
{
  echo "commit: $PROBEPRUNE_COMMIT$([[ -z $(git status --porcelain) ]] || echo ' with changes')"
  echo "rustc: $(rustc --version)"
  echo "nvcc: $("$NVCC" --version | sed -n 's/.*\(release.*\)/\1/p')"
  echo "glibc: $(ldd --version | sed -n '1s/.* //p')"
} >"$tree/package.txt"

# The programs have most of their bytes in common: a window that reaches from one to the next finds that, even if zstd splits
# its work among cores. run.sh needs the same window.
tar -C "$tree" --sort=name --mtime=@0 --owner=0 --group=0 -cf - . | zstd -q --long=28 -19 -T0 -f -o "$file.new"
mv "$file.new" "$file"
size=$(stat -c %s "$file")
cat "$tree/package.txt"
ls -s --block-size=K "$tree/bin"
echo "$file: $((size / 1000000)).$(printf '%02d' $((size / 10000 % 100))) MB of at most $most"
((size <= most * 1000000)) || { echo "too large" >&2; exit 1; }
