#!/usr/bin/env bash
# Runs what tools/gpu/pack.sh packed, on a machine with a GPU and its driver; nothing else is needed: ./run.sh [OUT.json]
# Correctness first (the emulator's conformance, every operation, whole models, compute-sanitizer), then times. OUT.json
# holds the machine, the GPU and, for each step, the command, its exit code, seconds and the end of its output; it is
# written anew after each step, so that it is there if this is stopped. A step that cannot run is "not run", with why.
# Exit code: 0 all that ran passed, 1 something failed, 2 nothing was checked. LIMIT: seconds for one step (1800).
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here/gpu.json}
[[ $out == /* ]] || out=$PWD/$out
limit=${LIMIT:-1800}
cd "$here" || exit 1
: >"$out" || exit 1

text() { # as a JSON string: the end of standard input
  tail -c 4000 | LC_ALL=C tr -d '\000-\010\013-\037\177' | { iconv -c -f utf-8 -t utf-8 2>/dev/null || LC_ALL=C tr -cd '\n\t -~'; } |
    LC_ALL=C sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/\t/\\t/g' | LC_ALL=C awk 'BEGIN { printf "\"" } NR > 1 { printf "\\n" } { printf "%s", $0 } END { printf "\"" }'
}

string() { printf '%s' "$*" | text; }

property() { sed -n "s/^$1: //p" package.txt; }

steps=()
passed=0 failed=0 not_run=0

write() {
  local all
  all=$(IFS=$'\n'; printf '%s' "${steps[*]/%/,}")
  printf '{\n"package": %s,\n"machine": %s,\n"gpu": %s,\n"driver": %s,\n"passed": %d, "failed": %d, "not_run": %d,\n"steps": [\n%s\n]\n}\n' \
    "$(text <package.txt)" "$(string "$machine")" "$gpu_json" "$driver_json" $passed $failed $not_run "${all%,}" \
    >"$out.new" && mv "$out.new" "$out"
}

# name, why, command
not_run() {
  echo "not run  $1: $2"
  not_run=$((not_run + 1))
  steps+=("{\"name\": $(string "$1"), \"status\": \"not run\", \"why\": $(string "$2"), \"command\": $(string "${@:3}")}")
  write
}

# name, command
step() {
  local name=$1 log begin end rc status why
  shift
  if why=$(missing "$@"); then
    not_run "$name" "$why" "$@"
    return
  fi
  log=$(mktemp)
  echo "running  $name"
  begin=$(date +%s.%N)
  (cd tree && exec timeout -k 10 "$limit" "$@") >"$log" 2>&1 </dev/null
  rc=$?
  end=$(date +%s.%N)
  if ((rc == 0)); then status=passed passed=$((passed + 1)); else status=failed failed=$((failed + 1)); fi
  printf '%-8s %s (code %d)\n' $status "$name" $rc
  ((rc == 0)) || tail -n 15 "$log" | sed 's/^/         /'
  steps+=("{\"name\": $(string "$name"), \"status\": \"$status\", \"rc\": $rc, \"seconds\": $(awk "BEGIN { printf \"%.2f\", $end - $begin }"), \"command\": $(string "$@"), \"tail\": $(text <"$log")}")
  rm -f "$log"
  write
}

# command; says why it cannot run, if so
missing() {
  local part
  [[ -n $no_gpu ]] && echo "$no_gpu" && return 0
  for part in "$@"; do
    if [[ $part == "$here"/bin/* && ! -x $part ]]; then
      echo "${part#"$here/"} is not in this package"
      return 0
    fi
  done
  return 1
}

# Tests of operations and models run in the emulator as well, which says nothing about this machine: this variable makes
# them use its GPU and fail if they cannot. Programs that do not know it are not run.
export PROBEPRUNE_TEST_CUDA=1 RUST_BACKTRACE=0
emulator_only() { [[ -z $no_gpu && -x $here/bin/$1 ]] && ! LC_ALL=C grep -q PROBEPRUNE_TEST_CUDA "$here/bin/$1"; }

device_tests() { # step's name, program
  if emulator_only "$2"; then
    not_run "$1" "the tests in bin/$2 know the emulator only" "$here/bin/$2"
  else
    step "$1" "$here/bin/$2"
  fi
}

machine="$(uname -srm), $(grep -m1 'model name' /proc/cpuinfo | sed 's/.*: //'), $(nproc) CPUs, glibc $(ldd --version 2>/dev/null | sed -n '1s/.* //p')"
gpu_json=null driver_json=null no_gpu=
if command -v nvidia-smi >/dev/null && [[ $(nvidia-smi -L 2>/dev/null) == GPU* ]]; then
  query() { nvidia-smi --query-gpu="$1" --format=csv,noheader 2>/dev/null; }
  gpu_json=$(query name,uuid,compute_cap,memory.total,power.limit,clocks.max.sm,clocks.max.memory,ecc.mode.current,mig.mode.current | text)
  driver_json=$(query driver_version | sort -u | text)
elif compgen -G '/dev/nvidia[0-9]*' >/dev/null || [[ -e /dev/dxg ]]; then
  gpu_json='"present, but there is no nvidia-smi to describe it"'
else
  no_gpu='no NVIDIA GPU on this machine'
fi

# The folder that is baked into the test programs.
source=$(property source)
if [[ -e $source && ! -L $source ]]; then
  echo "$source is in the way" >&2
  exit 1
fi
ln -sfn "$here/tree" "$source" || exit 1
trap 'rm -f "$source"' EXIT

probeprune=$here/bin/probeprune
if command -v nvidia-smi >/dev/null; then
  step 'nvidia-smi' nvidia-smi
else
  not_run 'nvidia-smi' "${no_gpu:-there is no nvidia-smi}" nvidia-smi
fi
step 'doctor' "$probeprune" doctor
facts=$passed
step 'emulator: conformance' "$here/bin/conformance_gpu"
device_tests 'operations on the GPU' gpu_ops
device_tests 'the driver' gpu
device_tests 'models, GPU against CPU' gpu_model

sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer /opt/cuda/bin/compute-sanitizer 2>/dev/null | head -n 1)
# One test of each module: the tools are slow.
tests=$([[ -x bin/gpu_ops ]] && cd tree && ../bin/gpu_ops --list 2>/dev/null | sed -n 's/: test$//p' | awk -F:: '!seen[$1]++')
for tool in memcheck racecheck synccheck initcheck; do
  command=("${sanitizer:-compute-sanitizer}" --tool $tool --error-exitcode 9 "$here/bin/gpu_ops" --exact --test-threads 1 $tests)
  if [[ -z $no_gpu && -z $sanitizer ]]; then
    not_run "compute-sanitizer $tool" 'there is no compute-sanitizer' "${command[@]}"
  elif emulator_only gpu_ops; then
    not_run "compute-sanitizer $tool" 'the tests in bin/gpu_ops know the emulator only' "${command[@]}"
  else
    step "compute-sanitizer $tool" "${command[@]}"
  fi
done

knows_device() { "$probeprune" perplexity --help 2>/dev/null | grep -q -- --device; }
data=$(mktemp -d)
trap 'rm -rf "$source" "$data"' EXIT
"$probeprune" corpus --topic all --seed 7 --bytes 400000 >"$data/text" 2>/dev/null
"$probeprune" corpus --topic all --seed 8 --bytes 60000 >"$data/calibration" 2>/dev/null
for model in tiny-llama tiny-opt; do
  for method in none pp; do
    command=("$probeprune" perplexity --device cuda --model "bundled:$model" --text "$data/text" --max-tokens 40960 --seq-len 64
      --batch-size 16 --method $method --prune-ratio 0.4 --calibrate-text "$data/calibration" --format json)
    if [[ -z $no_gpu && -x $probeprune ]] && ! knows_device; then
      not_run "time: $model, $method" 'this probeprune has no --device' "${command[@]}"
    else
      step "time: $model, $method" "${command[@]}"
    fi
  done
done
step 'time: llama-2-7b, layer pair' "$here/bin/probeprune-latency" --device cuda --shape llama-2-7b --layers 2 --batch-size 1,4,20 \
  --prompt-len 128,512,1024 --breakdown --format json
step 'goals' "$here/bin/bench-kernels" --bench --goals
found=
for bench in bin/bench-*; do
  [[ -x $bench ]] || continue
  found=yes
  step "time: ${bench#bin/}" "$here/$bench" --bench
done
[[ -n $found ]] || not_run 'time: kernels' 'there is no benchmark of kernels in this package' bench-kernels

echo "$passed passed, $failed failed, $not_run not run: $out"
((failed == 0)) || exit 1
((passed > facts)) || exit 2
