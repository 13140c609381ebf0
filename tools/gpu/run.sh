#!/usr/bin/env bash
# Runs what tools/gpu/pack.sh packed, on a machine with an NVIDIA GPU and its driver; nothing is compiled or fetched:
#   tools/gpu/run.sh --archive FILE --out DIR [--budget SECONDS] [--more] [--steps NAME,NAME] [--dry-run]
# Correctness first, then this project's goals, in the order of tools/gpu/steps.sh; --more runs the second list there. Every
# step gets its share of what is left of the budget (420 s) and ends with it. One that fails does not end the run.
# DIR/rows.jsonl: a line for each step and each goal, as soon as there is one, with "step" and "status" (passed, failed,
# timeout, not run); a goal's also has "goal", "value", "peer" and "prediction". DIR/logs.tar.zst: what the steps printed.
# --dry-run does the same on the emulated driver at small shapes, to test the package: its numbers mean nothing.
# PYTHON: the Python that has PyTorch (python3). ZSTD: a zstd program (zstd).
# Exit code: 0 nothing failed, 1 a step failed or ran out of time, 2 nothing could be run.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)

usage() { sed -n '3,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }

archive= out= budget= list=first_steps only= dry=
while (($#)); do
  case $1 in
  --more) list=more_steps ;;
  --dry-run) dry=yes ;;
  --archive | --out | --budget | --steps)
    (($# > 1)) || usage
    case $1 in --archive) archive=$2 ;; --out) out=$2 ;; --budget) budget=$2 ;; --steps) only=$2 ;; esac
    shift
    ;;
  *) usage ;;
  esac
  shift
done
[[ -n $archive && -n $out && ${budget:-1} =~ ^[0-9]+$ ]] || usage
# The emulated GPU is slow, and may have to share its cores.
budget=${budget:-$([[ -n $dry ]] && echo 7200 || echo 420)}
zstd=$(command -v "${ZSTD:-zstd}") || { echo 'there is no zstd: install it, or name one with ZSTD' >&2; exit 2; }
archive=$(realpath "$archive") && mkdir -p "$out" && out=$(cd "$out" && pwd) && work=$(mktemp -d) || exit 2
rows=$out/rows.jsonl tree=$work/tree bin=$work/tree/bin child=

finish() {
  # timeout passes it on to everything that the step started.
  if [[ -n $child ]]; then
    kill -TERM "$child" 2>/dev/null
    wait "$child" 2>/dev/null
  fi
  rm -rf "$work" "$out/logs.new"
}
trap finish EXIT
trap 'exit 143' TERM INT HUP

: >"$rows" && mkdir "$tree" "$work/logs" || exit 2
"$zstd" -dqc --long=28 "$archive" | tar -C "$tree" -xf - || { echo "$archive cannot be unpacked" >&2; exit 2; }
python=$(command -v "${PYTHON:-python3}")

# The tests run on the GPU alone, and fail where there is none.
export PROBEPRUNE_TEST_DEVICE=cuda PROBEPRUNE_PTX=$tree/cuda/ptx PROBEPRUNE_LAYER_PAIR=$work/layer-pair
export RUST_BACKTRACE=0 PYTHONUNBUFFERED=1
if [[ -n $dry ]]; then
  # The stand-in for cuBLAS lies where Python's package has it, so that its search is tested too.
  mkdir -p "$work/driver" "$work/site/nvidia/cublas/lib"
  ln -s "$bin/libemulated_cuda.so" "$work/driver/libcuda.so"
  ln -s libcuda.so "$work/driver/libcuda.so.1"
  ln -s "$bin/libemulated_cublas.so" "$work/site/nvidia/cublas/lib/libcublas.so.13"
  # So that Hopper's machine code and primitives are not left out.
  export EMULATED_CUDA_CAPABILITY=9.0
  export LD_LIBRARY_PATH=$work/driver PATH=$tree/stand-in:$PATH PYTHONPATH=$work/site PROBEPRUNE_TEST_SHAPES=reduced
fi

source "$here/steps.sh"
declare -n steps=$list
if [[ -n $only ]]; then
  IFS=, read -ra steps <<<"$only"
  for step in "${steps[@]}"; do
    [[ -n ${share[$step]:-} ]] || { echo "there is no step $step: ${first_steps[*]} ${more_steps[*]}" >&2; exit 2; }
  done
fi

# Text that can stand between quotes in JSON.
plain() { tr '\n\t"' "  '" | LC_ALL=C tr -cd ' -[]-~' | sed 's/ *$//'; }

# Writes a line at once, so that whole lines are there whenever this is killed. Fields without braces.
row() { printf '{%s%s}\n' "$1" "${dry:+,\"reduced\":true}" >>"$rows"; }

# A line for each of these goals that has none. step, status, why, goals
goals_without_a_line() {
  local goal
  for goal in ${4//,/ }; do
    grep -qE "\"goal\": ?$goal[,}]" "$rows" || row "\"step\":\"$1\",\"status\":\"$2\",\"goal\":$goal,\"value\":null,\"peer\":null,\"prediction\":null,\"why\":\"$(plain <<<"$3")\""
  done
}

declare -A count=([passed]=0 [failed]=0 [timeout]=0 ['not run']=0)

# step, status, why, more fields
outcome() {
  printf '%-8s %s%s\n' "$2" "$1" "${3:+: $3}"
  count[$2]=$((count[$2] + 1))
  row "\"step\":\"$1\",\"status\":\"$2\"${3:+,\"why\":\"$(plain <<<"$3")\"}${4:-}"
  goals_without_a_line "$1" "$2" "${3:-it ended without this one}" "${goals_of[$1]:-}"
}

gpu() { nvidia-smi --query-gpu="$1" --format=csv,noheader,nounits 2>/dev/null | head -n 1 | plain; }

keep_logs() { tar -C "$work" -cf - logs | "$zstd" -q -f -o "$out/logs.new" && mv "$out/logs.new" "$out/logs.tar.zst"; }

run() { # step, seconds
  local step=$1 limit=$2 log=$work/logs/$1.log begin=$EPOCHREALTIME rc cases status=passed why= before
  before=$(gpu clocks.sm,clocks.mem,power.draw,temperature.gpu)
  printf '%s\n\n' "${command[*]}" >"$log"
  # In the background, so that a signal to this script does not wait for it.
  (cd "$tree" && exec timeout -k 5 "$limit" "${command[@]}") >>"$log" 2>&1 </dev/null &
  child=$!
  wait "$child"
  rc=$?
  child=
  # Of tests, and of the conformance runner.
  cases=$(sed -nE 's/^(test result: [A-Za-z]+\. )?([0-9]+) passed.*/\2/p' "$log" | awk '{ n += $1 } END { print n + 0 }')
  if ((rc == 124 || rc == 137)); then
    status=timeout why="more than $limit s"
  elif ((rc != 0)); then
    # The log begins with the command.
    status=failed why="exit code $rc: $(sed 1,2d "$log" | grep -m1 -E 'FAILED|panicked at|DISAGREE|^error|Error:|^=+ [A-Z]' || tail -n 1 "$log")"
  elif [[ $step == doctor ]] && ! grep -q "$usable" "$log"; then
    status=failed why=$(tail -n 1 "$log")
  elif ((cases < ${least[$step]:-0})); then
    status=failed why="$cases cases, and there are at least ${least[$step]}"
  fi
  # What one step prints is kept to some MB: its beginning and its end.
  if (($(stat -c %s "$log") > 4000000)); then
    { head -c 1000000 "$log"; printf '\n[...]\n'; tail -c 3000000 "$log"; } >"$log.short" && mv "$log.short" "$log"
  fi
  outcome "$step" "$status" "${why:0:400}" ",\"rc\":$rc,\"cases\":$cases,\"seconds\":$(awk "BEGIN { printf \"%.1f\", $EPOCHREALTIME - $begin }"),\"limit\":$limit,\"gpu_before\":\"$before\",\"gpu_after\":\"$(gpu clocks.sm,clocks.mem,power.draw,temperature.gpu)\""
  keep_logs
}

row "\"step\":\"machine\",\"status\":\"passed\",\"gpu\":\"$(gpu name)\",\"driver\":\"$(gpu driver_version)\",\"gpu_facts\":\"$(gpu compute_cap,memory.total,power.limit,clocks.max.sm,clocks.max.memory,ecc.mode.current)\",\"machine\":\"$({ uname -srm; grep -m1 'model name' /proc/cpuinfo; nproc; } | plain)\",\"package\":\"$(plain <"$tree/package.txt")\",\"commit\":\"$(sed -n 's/^commit: //p' "$tree/package.txt")\",\"time\":\"$(date -u +%FT%TZ)\""

# What doctor says of a GPU that the kernels were loaded on.
usable=', usable, kernels loaded' no_gpu=
for ((i = 0; i < ${#steps[@]}; i++)); do
  step=${steps[i]}
  left=$((budget - SECONDS)) shares=0
  for other in "${steps[@]:i}"; do shares=$((shares + share[$other])); done
  limit=$((left * share[$step] / shares))
  command_of "$step"
  if [[ -n $no_gpu ]]; then
    outcome "$step" 'not run' "$no_gpu"
  elif [[ -n $lacking ]]; then
    outcome "$step" 'not run' "$lacking is not on this machine"
  elif ((limit < 1)); then
    outcome "$step" 'not run' "the budget of $budget s is used up"
  else
    run "$step" "$limit"
  fi
  case $step in
  doctor) grep -q "$usable" "$work/logs/doctor.log" || no_gpu='there is no GPU that can be used: see doctor' ;;
  libraries)
    found=$(sed -n 's/^LD_LIBRARY_PATH=//p' "$work/logs/libraries.log" 2>/dev/null)
    [[ -z $found ]] || export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$found
    ;;
  esac
done
goals_without_a_line none 'not run' 'no step of this run measures it' "$all_goals"

echo "$rows: ${count[passed]} steps passed, ${count[failed]} failed, ${count[timeout]} ran out of time, ${count['not run']} not run"
[[ -z $no_gpu ]] || exit 2
((count[failed] + count[timeout] == 0)) || exit 1
