#!/usr/bin/env bash
# Train experiments on the source in every fold; finished runs are skipped, broken ones continued.
#   EXPERIMENTS="S.6 S.10" FOLDS="0 1 2 3 4" PROCESSES=4 launch/supervised.sh [options of train_supervised.py]
set -euo pipefail
cd "$(dirname "$0")/.."
for experiment in ${EXPERIMENTS:-S.10}; do
    for fold in ${FOLDS:-0 1 2 3 4}; do
        torchrun --standalone --nproc_per_node="${PROCESSES:-4}" train_supervised.py \
            --experiment "$experiment" --fold "$fold" "$@"
    done
done
