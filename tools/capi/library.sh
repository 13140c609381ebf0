#!/usr/bin/env bash
# The C library: shared and static, header, pkg-config file.
#   tools/capi/library.sh build             target/release/libprobeprune.{so,a}
#   tools/capi/library.sh install PREFIX    builds and installs; as `cargo cinstall --no-default-features --prefix PREFIX` (cargo-c) does
#   tools/capi/library.sh check             the tests of the C ABI, its symbols and layout, and all examples: C99, C++17, valgrind,
#                                   AddressSanitizer, Python
# Python examples run where PYTHON (python3) has NumPy, and with PyTorch's tensors where it has PyTorch.
set -euo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-python3}
version=$(sed -n 's/^#define PROBEPRUNE_ABI_VERSION //p' include/probeprune.h)

say() { printf -- '-- %s\n' "$*"; }

build() {
  cargo rustc --release --locked --lib --no-default-features --features capi --crate-type cdylib,staticlib -- \
    -C "link-arg=-Wl,-soname,libprobeprune.so.$version"
}

install_to() { # prefix
  local prefix=$1 crate
  crate=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
  build
  mkdir -p "$prefix/lib/pkgconfig" "$prefix/include"
  prefix=$(cd "$prefix" && pwd)
  install -m 644 include/probeprune.h "$prefix/include/"
  install -m 755 target/release/libprobeprune.so "$prefix/lib/libprobeprune.so.$version.0.0"
  install -m 644 target/release/libprobeprune.a "$prefix/lib/"
  strip --strip-debug "$prefix/lib/libprobeprune.so.$version.0.0" "$prefix/lib/libprobeprune.a"
  ln -sf "libprobeprune.so.$version.0.0" "$prefix/lib/libprobeprune.so.$version"
  ln -sf "libprobeprune.so.$version" "$prefix/lib/libprobeprune.so"
  cat >"$prefix/lib/pkgconfig/probeprune.pc" <<PC
prefix=$prefix
libdir=\${prefix}/lib
includedir=\${prefix}/include

Name: probeprune
Description: LLaMA and OPT inference with Probe Pruning
Version: $crate
Libs: -L\${libdir} -lprobeprune
Libs.private: -lgcc_s -lutil -lrt -lpthread -lm -ldl -lc
Cflags: -I\${includedir}
PC
}

symbols() {
  tools/capi/abi.py check
  diff <(tools/capi/abi.py symbols) <(nm -D --defined-only target/release/libprobeprune.so | awk '{print $3}' | sort)
  readelf -d target/release/libprobeprune.so | grep -q "soname: \[libprobeprune.so.$version\]"
  # Rust programs get none of it.
  local rlib
  rlib=$(cargo build --release --locked --lib --message-format=json 2>/dev/null | "$PYTHON" -c '
import json, sys
messages = (json.loads(line) for line in sys.stdin)
files = [file for message in messages if message.get("target", {}).get("name") == "probeprune" for file in message.get("filenames", [])]
print(next(file for file in files if file.endswith(".rlib")))')
  if nm "$rlib" 2>/dev/null | grep ' T probeprune_'; then
    echo "without the feature capi there are symbols of the C ABI" >&2
    return 1
  fi
}

examples() { # prefix
  export PKG_CONFIG_PATH=$1/lib/pkgconfig LD_LIBRARY_PATH=$1/lib
  local strict='-Wall -Wextra -Werror -pedantic -g' flags out=$1/examples
  flags=$(pkg-config --cflags --libs probeprune)
  mkdir -p "$out"
  for example in mlp_block generate fold; do
    for build in c99 c++17 asan static; do
      say "$example: $build"
      # shellcheck disable=SC2086
      case $build in
        c99) cc -std=c99 $strict "examples/c/$example.c" $flags -lm -o "$out/$example" ;;
        c++17) c++ -std=c++17 $strict -x c++ "examples/c/$example.c" -x none $flags -lm -o "$out/$example-$build" ;;
        asan) cc -std=c99 $strict -fsanitize=address "examples/c/$example.c" $flags -lm -o "$out/$example-$build" ;;
        static) cc -std=c99 $strict "examples/c/$example.c" $(pkg-config --cflags probeprune) "$1/lib/libprobeprune.a" \
          $(pkg-config --static --libs-only-l probeprune | sed 's/-lprobeprune//') -o "$out/$example-$build" ;;
      esac
    done
    for build in '' -c++17 -asan -static; do "$out/$example$build"; done
    # What is reachable at the end are tables made once per process; valgrind takes pointers into their middle for
    # possible losses.
    say "$example: valgrind"
    valgrind --quiet --error-exitcode=9 --leak-check=full --show-leak-kinds=definite,indirect \
      --errors-for-leak-kinds=definite,indirect "$out/$example"
  done
}

python_examples() { # prefix
  if ! "$PYTHON" -c 'import numpy' 2>/dev/null; then
    say "no NumPy for $PYTHON: its examples were not run"
    return
  fi
  cargo build --release --locked --bin probeprune
  export PROBEPRUNE_LIBRARY=$1/lib/libprobeprune.so
  say 'Python: tensors'
  "$PYTHON" examples/python/tensors.py
  say 'Python: lm-evaluation-harness'
  "$PYTHON" examples/python/check_harness.py target/release/probeprune
}

check() {
  local prefix
  prefix=$(mktemp -d)
  trap 'rm -rf "'"$prefix"'"' EXIT
  cargo test --release --locked --features capi --test capi
  cargo test --release --locked --features capi --lib ffi
  install_to "$prefix"
  symbols
  examples "$prefix"
  python_examples "$prefix"
}

case ${1:-} in
  build) build ;;
  install) install_to "${2:?PREFIX}" ;;
  check) check ;;
  *) sed -n '2,/^set/{/^set/d;s/^# \?//;p}' "$0"; exit 2 ;;
esac
