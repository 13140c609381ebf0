#!/usr/bin/env bash
# Everything that is made from cuda/*.cu and cuda/args.h, with the pinned compiler (tools/kernels/requirements.txt):
#   tools/kernels/cuda.sh ptx [NAME...]   cuda/ptx/NAME.ptx from cuda/NAME.cu (all of them without names)
#   tools/kernels/cuda.sh args            src/gpu/args.rs from cuda/args.h
#   tools/kernels/cuda.sh resources       cuda/resources.json: registers, spills, shared memory, instructions of every kernel
#   tools/kernels/cuda.sh nvcc            where the compiler is
#   tools/kernels/cuda.sh check           makes all of it elsewhere and compares with the committed files; ptxas must take the PTX
#   tools/kernels/cuda.sh ptx-to DIR [NAME...]   as ptx, into another folder; CUDA_SOURCES: read from there, not from cuda/
# nvcc: NVCC, or CUDA_HOME/bin/nvcc, or .cuda/ (installed if absent). JOBS at a time (2). bindgen: BINDGEN, or the one in
# .venv/bin or on PATH (cargo install bindgen-cli --version 0.72.1 --locked --root .venv); libclang: LIBCLANG_PATH, or
# pip's libclang==18.1.1.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
export PATH=$root/.venv/bin:$PATH CUDA_SOURCES=${CUDA_SOURCES:-$root/cuda} JOBS=${JOBS:-2}
# What drivers take from CUDA 11.4 on, the oldest that src/gpu/cuda/devices.rs asks for.
PTX_VERSION=7.4
trap 'rm -rf "${scratch:-}"' EXIT

find_nvcc() {
  if [[ -z "${NVCC:-}" ]]; then
    if [[ -z "${CUDA_HOME:-}" ]]; then
      export CUDA_HOME=$root/.cuda/nvidia/cu13
      if [[ ! -x $CUDA_HOME/bin/nvcc ]]; then
        # One call into an empty folder: a second one would not merge the packages' common folder.
        rm -rf .cuda
        python3 -m pip install -q --no-deps --disable-pip-version-check --root-user-action=ignore --target .cuda \
          -r tools/kernels/requirements.txt
      fi
    fi
    NVCC=$CUDA_HOME/bin/nvcc
  fi
  export NVCC
  "$NVCC" --version >/dev/null || { echo "there is no nvcc at $NVCC" >&2; exit 1; }
}

# out folder, names
ptx() {
  local out=$1 names=("${@:2}")
  ((${#names[@]})) || names=($(cd "$CUDA_SOURCES" && ls *.cu | sed 's/\.cu$//'))
  mkdir -p "$out"
  (cd "$CUDA_SOURCES" && printf '%s\n' "${names[@]}" | xargs -P "$JOBS" -I@ \
    "$NVCC" -std=c++17 -lineinfo -gencode=arch=compute_80,code=compute_80 -ptx @.cu -o "$out/@.ptx")
  (
    cd "$out"
    python3 "$root/tools/kernels/pathless.py" "${names[@]/%/.ptx}"
    python3 "$root/tools/kernels/ptx_version.py" $PTX_VERSION "${names[@]/%/.ptx}"
  )
}

# Whether the code is within its PTX version, wherever a driver may compile it: ptxas refuses what is newer. That it does
# so for sm_80 is for `resources` to say. Code is made only to be thrown away, so without optimisation.
assembles() { # folder of the PTX
  local ptxas=${NVCC%nvcc}ptxas arch
  for arch in sm_86 sm_89 sm_90; do
    (cd "$1" && ls *.ptx | xargs -P "$JOBS" -I@ "$ptxas" -O0 -arch=$arch @ -o /dev/null)
  done
  echo "ptxas takes PTX $PTX_VERSION of every module for sm_80, sm_86, sm_89 and sm_90"
}

resources() { # folder of the PTX, out file
  python3 tools/kernels/resources.py "$NVCC" "$1" "$2"
}

args() {
  local header=$root/cuda/args.h clang=${LIBCLANG_PATH:-}
  [[ -n $clang ]] || clang=$(python3 -c 'import clang, os; print(os.path.join(os.path.dirname(clang.__file__), "native"))')
  # args.h is a header, but here it is compiled by itself: its #pragma once is no mistake.
  LIBCLANG_PATH=$clang \
    BINDGEN_EXTRA_CLANG_ARGS="-I$(gcc -print-file-name=include) -x c++ -Wno-pragma-once-outside-header" \
    "${BINDGEN:-bindgen}" --no-layout-tests --default-visibility crate --allowlist-type '.*Args' --no-debug '.*' --no-recursive-allowlist \
    --disable-header-comment --with-derive-custom-struct '.*=bytemuck::Pod,bytemuck::Zeroable,Clone,Copy,Debug,Default' \
    --no-doc-comments --raw-line '//! Made from cuda/args.h by `tools/kernels/cuda.sh args`: the kernels'"'"' arguments.' \
    --raw-line '#![allow(missing_docs, unreachable_pub, reason = "documented in cuda/args.h; bindgen makes them pub")]' \
    --raw-line 'type Elements = u64; type ElementsOut = u64; type Floats = u64; type FloatsOut = u64; type Indices = u64; type IndicesOut = u64;' \
    "$header" | rustfmt --edition 2024 --config-path "$root" >"$1"
}

case "${1:-}" in
nvcc) find_nvcc; echo "$NVCC" ;;
ptx) find_nvcc; ptx "$root/cuda/ptx" "${@:2}" ;;
ptx-to) find_nvcc; ptx "$(realpath -m "$2")" "${@:3}" ;;
args) args src/gpu/args.rs.new; mv src/gpu/args.rs.new src/gpu/args.rs ;;
resources)
  find_nvcc
  scratch=$(mktemp -d)
  ptx "$scratch/ptx"
  resources "$scratch/ptx" cuda/resources.json
  ;;
check)
  find_nvcc
  scratch=$(mktemp -d)
  python3 -m doctest tools/kernels/resources.py tools/kernels/pathless.py tools/kernels/ptx_version.py
  ptx "$scratch/ptx"
  args "$scratch/args.rs"
  resources "$scratch/ptx" "$scratch/resources.json"
  assembles "$scratch/ptx"
  fresh=yes
  diff -rq "$scratch/ptx" cuda/ptx || fresh=
  diff "$scratch/args.rs" src/gpu/args.rs || fresh=
  diff "$scratch/resources.json" cuda/resources.json || fresh=
  if [[ -z $fresh ]]; then
    echo 'stale: run tools/kernels/cuda.sh ptx, args and resources' >&2
    exit 1
  fi
  echo 'cuda/ptx, src/gpu/args.rs and cuda/resources.json are fresh'
  ;;
*) sed -n '2,11p' "$0"; exit 2 ;;
esac
