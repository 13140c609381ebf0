#!/usr/bin/env bash
# Everything that is made from cuda/*.cu and cuda/args.h, with the pinned compiler (tools/cuda-requirements.txt):
#   tools/cuda.sh ptx [NAME...]   cuda/ptx/NAME.ptx from cuda/NAME.cu (all of them without names)
#   tools/cuda.sh args            src/gpu/args.rs from cuda/args.h (bindgen and libclang)
#   tools/cuda.sh check           makes both anew elsewhere and compares with what is committed
#   tools/cuda.sh ptx-to DIR [NAME...]   as ptx, into another folder
# nvcc: NVCC, or CUDA_HOME/bin/nvcc, or .cuda/ (installed if absent). bindgen: BINDGEN, or the one on PATH.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD

find_nvcc() {
  if [[ -z "${NVCC:-}" ]]; then
    if [[ -z "${CUDA_HOME:-}" ]]; then
      export CUDA_HOME=$root/.cuda/nvidia/cu13
      if [[ ! -x $CUDA_HOME/bin/nvcc ]]; then
        # One call into an empty folder: a second one would not merge the packages' common folder.
        rm -rf .cuda
        python3 -m pip install -q --no-deps --root-user-action=ignore --target .cuda -r tools/cuda-requirements.txt
      fi
    fi
    NVCC=$CUDA_HOME/bin/nvcc
  fi
}

# out folder, names
ptx() {
  local out=$1 names=("${@:2}")
  ((${#names[@]})) || names=($(cd cuda && ls *.cu | sed 's/\.cu$//'))
  mkdir -p "$out"
  (
    cd cuda
    for name in "${names[@]}"; do
      "$NVCC" -std=c++17 -lineinfo -gencode=arch=compute_80,code=compute_80 -ptx "$name.cu" -o "$out/$name.ptx" &
      while (($(jobs -rp | wc -l) >= ${JOBS:-2})); do wait -n; done
    done
    wait
  )
  # Files keep only their names, whatever folder they lie in.
  for name in "${names[@]}"; do
    sed -i -E 's|^(\s*\.file\s+[0-9]+ ")[^"]*/|\1|; s/_INTERNAL_[0-9a-f]{8}_/_INTERNAL_/g' "$out/$name.ptx"
  done
}

args() {
  local clang
  clang=$(python3 -c 'import clang, os; print(os.path.join(os.path.dirname(clang.__file__), "native"))')
  LIBCLANG_PATH=$clang BINDGEN_EXTRA_CLANG_ARGS="-I$(gcc -print-file-name=include) -x c++" \
    "${BINDGEN:-bindgen}" --no-layout-tests --default-visibility crate --allowlist-type '.*Args' --no-debug '.*' --no-recursive-allowlist \
    --disable-header-comment --with-derive-custom-struct '.*=bytemuck::Pod,bytemuck::Zeroable,Clone,Copy,Debug,Default' \
    --no-doc-comments --raw-line '//! Made from cuda/args.h by `tools/cuda.sh args`: the kernels'"'"' arguments.' \
    --raw-line '#![allow(missing_docs, reason = "documented in cuda/args.h")]' \
    --raw-line 'type Elements = u64; type ElementsOut = u64; type Floats = u64; type FloatsOut = u64; type Indices = u64; type IndicesOut = u64;' \
    cuda/args.h | rustfmt --edition 2024 --config-path "$root" >"$1"
}

case "${1:-}" in
ptx) find_nvcc; ptx "$root/cuda/ptx" "${@:2}" ;;
ptx-to) find_nvcc; ptx "$(realpath -m "$2")" "${@:3}" ;;
args) args src/gpu/args.rs ;;
check)
  find_nvcc
  out=$(mktemp -d)
  trap 'rm -rf "$out"' EXIT
  ptx "$out/ptx"
  args "$out/args.rs"
  diff -rq "$out/ptx" cuda/ptx && diff "$out/args.rs" src/gpu/args.rs && echo "cuda/ptx and src/gpu/args.rs are fresh"
  ;;
*) sed -n '2,8p' "$0"; exit 2 ;;
esac
