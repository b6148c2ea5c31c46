#!/usr/bin/env bash
# Adapt to every target in every fold, one run after the other; finished runs are skipped, broken ones continued.
#   TARGETS="t1 t2 t3" FOLDS="0 1 2 3 4" PROCESSES=4 launch/uda.sh [options of train_uda.py]
set -euo pipefail
cd "$(dirname "$0")/.."
for target in ${TARGETS:-t1 t2 t3}; do
    for fold in ${FOLDS:-0 1 2 3 4}; do
        torchrun --standalone --nproc_per_node="${PROCESSES:-4}" train_uda.py --target "$target" --fold "$fold" "$@"
    done
done
