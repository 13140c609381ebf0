#!/usr/bin/env bash
# Makes emu/kernels/ptx/*.ptx from emu/kernels/*.cu with the pinned nvcc.
#   tools/kernels/emu-ptx.sh          regenerate
#   tools/kernels/emu-ptx.sh check    regenerate elsewhere and compare with what is committed
# nvcc: NVCC, or CUDA_HOME/bin/nvcc, or .cuda/ (installed from tools/kernels/requirements.txt if absent).
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
if [[ -z "${NVCC:-}" ]]; then
  if [[ -n "${CUDA_HOME:-}" ]]; then
    NVCC=$CUDA_HOME/bin/nvcc
  else
    if [[ ! -x .cuda/nvidia/cu13/bin/nvcc ]]; then
      # One call into an empty folder: a second one would not merge the packages' common folder.
      rm -rf .cuda
      python3 -m pip install -q --no-deps --root-user-action=ignore --target .cuda -r tools/kernels/requirements.txt
    fi
    NVCC=$root/.cuda/nvidia/cu13/bin/nvcc
  fi
fi
out=$root/emu/kernels/ptx
if [[ "${1:-}" == check ]]; then
  out=$(mktemp -d)
  trap 'rm -rf "$out"' EXIT
fi
mkdir -p "$out"
# nvcc names internal symbols after a hash of the source's path: always the same path, wherever the checkout is.
build=/tmp/ptx-emu-build
rm -rf "$build"
mkdir -p "$build"
cp -r emu/kernels emu/conformance "$build"
cd "$build/kernels"

# name, source, architecture, further flags. Headers of the toolkit keep only their names, whatever folder they lie in.
compile() {
  "$NVCC" -std=c++17 -lineinfo -gencode="arch=compute_$3,code=compute_$3" "${@:4}" -ptx "$2" -o "$out/$1.ptx"
  sed -i -E 's|^(\s*\.file\s+[0-9]+ ")[^"]*/|\1|' "$out/$1.ptx"
  # The oldest PTX that has what the code needs: the conformance kernels also go to drivers that are older than this nvcc.
  python3 "$root/tools/kernels/ptx_version.py" "$([[ $3 == 80 ]] && echo 7.4 || echo 8.0)" "$out/$1.ptx"
}

for k in reduce topk gemm_mma traffic; do compile $k $k.cu 80 & done
compile gemm_wgmma gemm_wgmma.cu 90a &
wait
# The planted bugs, numbered as in the head of each source.
for i in 1 2 3 4 5 6 7 8 9; do compile "bug_reduce_$i" reduce.cu 80 -DBUG=$i & done
wait
for i in 1 2 3 4; do compile "bug_topk_$i" topk.cu 80 -DBUG=$i & done
for i in 1 2 3 4; do compile "bug_gemm_mma_$i" gemm_mma.cu 80 -DBUG=$i & done
compile bug_gemm_mma_5 gemm_mma.cu 80 -DBUG_ASM_OPERANDS &
wait
for i in 1 2 3 4 5 6 7 8 9 10 11 12; do compile "bug_gemm_wgmma_$i" gemm_wgmma.cu 90a -DBUG=$i & done
wait
for f in ../conformance/*.cu; do
  [[ -e $f ]] || continue
  n=$(basename "$f" .cu)
  case $n in sm90*) arch=90a ;; *) arch=80 ;; esac
  compile "conformance_$n" "$f" $arch -I. &
done
wait
if [[ "${1:-}" == check ]]; then
  diff -rq "$out" "$root/emu/kernels/ptx" && echo "emu/kernels/ptx is what this nvcc makes"
fi
