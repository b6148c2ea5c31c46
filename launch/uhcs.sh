#!/usr/bin/env bash
# Four phases on real micrographs: five folds of two networks on docs/examples/uhcs.toml, and the floors under them.
# docs/results.md has what it printed. What is finished is skipped.
#   launch/uhcs.sh        STEPS=2000 MODELS="deeplabv2_small unet_small" SEED=0 PROCESSES=1
# Options of train_supervised.py follow: launch/uhcs.sh --class-weights balanced
set -euo pipefail
cd "$(dirname "$0")/.."
stores=stores/uhcs
runs=${RUNS:-runs/uhcs}

python -m data.prepare docs/examples/uhcs.toml --out "$stores"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
python -m data.verify "$stores"
for model in ${MODELS:-deeplabv2_small unet_small}; do
    for fold in 0 1 2 3 4; do
        run=$runs/$model/fold$fold
        torchrun --standalone --nproc_per_node="${PROCESSES:-1}" train_supervised.py --experiment demo.supervised \
            --source uhcs --data "$stores" --model "$model" --fold "$fold" --seed "${SEED:-0}" --steps "${STEPS:-2000}" \
            --workers 0 --run-dir "$run" "$@"
    done
    python evaluate.py "$runs/$model"/fold? --data "$stores" --domain uhcs
done
python evaluate.py "$runs/$model"/fold? --data "$stores" --domain uhcs --otsu
python evaluate.py "$runs/$model"/fold? --data "$stores" --domain uhcs --majority
python -m evaluation.tables "$runs" --out "$runs"
