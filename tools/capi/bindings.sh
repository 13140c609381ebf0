#!/usr/bin/env bash
# Writes what bindgen reads in include/probeprune.h to the file named (tests/capi/bindings.rs): the header as Rust sees it,
# for the tests. bindgen and libclang are those of tools/kernels/cuda.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH=$PWD/.venv/bin:$PATH
clang=${LIBCLANG_PATH:-$(python3 -c 'import clang, os; print(os.path.join(os.path.dirname(clang.__file__), "native"))')}
LIBCLANG_PATH=$clang BINDGEN_EXTRA_CLANG_ARGS="-I$(gcc -print-file-name=include)" \
  "${BINDGEN:-bindgen}" --allowlist-item '(probeprune|PROBEPRUNE|DL|kDL).*' --no-doc-comments --disable-header-comment \
  --override-abi 'probeprune_(progress|token)=C-unwind' --no-layout-tests --wrap-unsafe-ops --rust-target 1.85 --rust-edition 2024 \
  --raw-line '//! Made from include/probeprune.h by tools/capi/bindings.sh.' \
  --raw-line '#![allow(dead_code, missing_docs, non_camel_case_types, non_upper_case_globals, unreachable_pub, reason = "as in C")]' \
  include/probeprune.h | rustfmt --edition 2024 --config-path . >"$1"
