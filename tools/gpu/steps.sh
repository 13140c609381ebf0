# What tools/gpu/run.sh runs: the steps in their order, what each may take, and its command. Sourced by run.sh, whose
# variables it uses: tree and bin (the package), rows (rows.jsonl), dry (set in a dry run), python.

first_steps=(doctor libraries conformance operations driver models large layer-pair goals-products goals-layers
  memcheck racecheck latency goals-memory)
more_steps=(doctor libraries goals-peers goals-cpu ncu synccheck initcheck)

# Shares of the budget, about in seconds on an H100; what a step leaves goes to those behind it.
declare -A share=(
  [doctor]=10 [libraries]=15 [conformance]=15 [operations]=60 [driver]=30 [models]=40 [large]=60 [layer-pair]=25
  [goals-products]=40 [goals-layers]=50 [memcheck]=25 [racecheck]=25 [latency]=60 [goals-memory]=35
  [goals-peers]=140 [goals-cpu]=40 [ncu]=60 [synccheck]=25 [initcheck]=25
)

# A step that ran fewer cases than these did not pass.
declare -A least=(
  [conformance]=25 [operations]=120 [driver]=20 [models]=11 [large]=4
  [memcheck]=15 [racecheck]=15 [synccheck]=15 [initcheck]=15
)

# Rows of design goals that a step measures; see benches/kernels/goals.rs and, for the CPU's, benches/cpu/goals.rs.
declare -A goals_of=(
  [goals-products]=9,3,4,5,6,12 [goals-layers]=1,2,7,10,11 [goals-memory]=14 [goals-peers]=8,13,15 [goals-cpu]=16,17,18
)
all_goals=1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18

# The four kernels that take most of a layer's time: how their names begin, and a benchmark that launches them.
profiled=(gated_linear gated_linear/SHAPE/kept project project_down/SHAPE/kept linear linear_q/SHAPE/whole
  attention_q attention/SHAPE/whole)

# A program of the CUDA toolkit, which need not be on PATH.
toolkit() { command -v "$1" || ls /usr/local/cuda*/bin/"$1" /opt/cuda/bin/"$1" 2>/dev/null | head -n 1; }

# Whether Python has what the peers need.
pytorch() { [[ -n $python ]] && "$python" -c 'import numpy, safetensors, torch' 2>/dev/null; }

# One test of each module of gpu_ops, none with a case for every boundary, nor without launches: the sanitizer's tools are slow.
chosen_tests() {
  "$bin/gpu_ops" --list 2>/dev/null | sed -n 's/: test$//p' |
    awk -F:: '$1 !~ /^(case|steps)$/ && $2 !~ /anywhere|raster|special|cpu_backend|nothing/ && !seen[$1]++'
}

# Sets `command` to what a step runs, and `lacking` to what this machine lacks for it, if something.
command_of() {
  local step=$1 reduced=(${dry:+--reduced}) program
  lacking=
  case $step in
  doctor) command=("$bin/probeprune" doctor) ;;
  conformance) command=("$bin/conformance_gpu") ;;
  operations) command=("$bin/gpu_ops") ;;
  driver)
    command=("$bin/gpu")
    # Pretended drivers take the real one's place, and say nothing about it.
    [[ -n $dry ]] || command+=(--skip emulated::)
    ;;
  models) command=("$bin/gpu_model") ;;
  large) command=("$bin/gpu_large" --test-threads 1 --nocapture) ;;
  goals-products | goals-memory)
    command=("$bin/bench-kernels" --bench --goals "${goals_of[$step]}" --rows "$rows" --step "$step" "${reduced[@]}")
    ;;
  latency)
    command=("$bin/probeprune-latency" --device cuda --test prompt --format json)
    if [[ -n $dry ]]; then
      command+=(--model bundled:tiny-llama --batch-size 1 --prompt-len 16 --prune-ratio 0.4 --repetitions 1 --warmup 0)
    else
      command+=(--shape llama-2-7b --batch-size 1,4,20 --prompt-len 1024 --repetitions 5 --breakdown)
    fi
    ;;
  memcheck | racecheck | synccheck | initcheck)
    program=$(toolkit compute-sanitizer)
    [[ -n $program ]] || lacking=compute-sanitizer
    command=("$program" --tool "$step" --error-exitcode 9 "$bin/gpu_ops" --exact --test-threads 1 $(chosen_tests))
    ;;
  ncu)
    program=$(toolkit ncu)
    [[ -n $program ]] || lacking=ncu
    command=(sh -c 'ncu=$1 bench=$2 reduced=$3 && shift 3 && while [ $# -gt 0 ]; do
      "$ncu" --clock-control none --kernel-name "regex:^$1" --launch-skip 4 --launch-count 1 --section SpeedOfLight \
        --section MemoryWorkloadAnalysis --section Occupancy --section WarpStateStats \
        "$bench" --bench --device cuda $reduced "$2" || exit; shift 2; done'
      sh "$program" "$bin/bench-kernels" "${reduced[*]}")
    if [[ -n $dry ]]; then command+=("${profiled[@]/SHAPE/small_3x24}"); else command+=("${profiled[@]/SHAPE/llama2_7b_4x1024}"); fi
    ;;
  libraries) command=("$python" "$tree/find_libraries.py") ;;
  layer-pair)
    pytorch || lacking='PyTorch, numpy or safetensors'
    command=("$python" "$tree/peers/layer_pair.py" "$PROBEPRUNE_LAYER_PAIR" ${dry:+--device cpu})
    ;;
  goals-layers | goals-peers)
    command=("$python" "$tree/peers/goals.py" "$bin/libgoals.so" --goals "${goals_of[$step]}" --rows "$rows" --step "$step"
      "${reduced[@]}" ${dry:+--no-torch})
    ;;
  goals-cpu)
    pytorch || lacking='PyTorch, numpy or safetensors'
    command=(sh -c '"$1" "$2/peers/random_model.py" "$2/random" && exec "$2/bin/bench-cpu" --bench --items mlp,prefill \
      --classes a --model "$2/random" --pytorch "$1 $2/peers/pytorch.py $2/random" --repeat 3 --rows "$3" --step goals-cpu' \
      sh "$python" "$tree" "$rows")
    ;;
  esac
  [[ -n ${command[0]} ]] || lacking=${lacking:-python3}
}
