#!/usr/bin/env bash
# The NanoSEM pre-training: what is finished is skipped, what was broken off is continued.
#   launch/pretrain.sh [--dry-run | --submit] [-- options of pretrain_nanosem.py]        more: launch/family.sh
#   launch/pretrain.sh --sweep [--dry-run] [-- options]   the learning rates (Section 2.4.2), then their test accuracies
# STUDY=launch/experiments.toml   PROCESSES=4 (1: on one GPU)   RATES="1e-5 3e-5 1e-4 3e-4 1e-3"
set -euo pipefail
cd "$(dirname "$0")/.."
[[ ${1:-} == --sweep ]] || exec launch/family.sh pretrain "$@"
shift
say_only=0
[[ ${1:-} == --dry-run ]] && say_only=1 && shift
[[ ${1:-} == -- ]] && shift

study=${STUDY:-launch/experiments.toml}
folder=$(python -c 'import sys; from training.experiments import runs_root; print(runs_root(sys.argv[1]))' "$study")/NanoSEM/sweep
read -ra rates <<< "${RATES:-1e-5 3e-5 1e-4 3e-4 1e-3}"
for rate in "${rates[@]}"; do
    [[ -f $folder/$rate/finished.json ]] && continue
    command=(torchrun --standalone "--nproc_per_node=${PROCESSES:-4}" pretrain_nanosem.py --experiments "$study"
        --learning-rate "$rate" --run-dir "$folder/$rate" "$@")
    if ((say_only)); then echo "${command[@]}"; else "${command[@]}"; fi
done
((say_only)) || python -m evaluation.sweep "$folder"
