#!/usr/bin/env bash
# One of the real data sets of docs/examples: supervised on the source, adapted to the target, and an oracle that is
# trained on target labels. Seed k holds out fold k of both domains, so that every target image is tested once, by models
# that never saw it. docs/results.md has what it printed.
#   launch/example.sh ni_superalloy        SEEDS="0 1 2" PROCESSES=1
#   TRANSDUCTIVE=1                         adapts to the tested images too, without their labels, as a row of its own
set -euo pipefail
cd "$(dirname "$0")/.."
name=${1:?give ni_superalloy or ebc}
stores=stores/$name
train() { torchrun --standalone --nproc_per_node="${PROCESSES:-1}" "$@"; }

python -m data.prepare "docs/examples/$name.toml" --out "$stores"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
python -m data.verify "$stores"
for seed in ${SEEDS:-0 1 2}; do
    folder=runs/$name/seed$seed
    common=(--data "$stores" --seed "$seed" --fold "$seed" --workers 0)
    uda=(--experiment demo.uda --target target "${common[@]}" --reference "$folder/supervised/fold$seed")
    train train_supervised.py --experiment demo.supervised "${common[@]}" --steps 400 --run-dir "$folder/supervised/fold$seed"
    train train_uda.py "${uda[@]}" --steps 600 --run-dir "$folder/uda/fold$seed"
    train train_supervised.py --experiment demo.supervised "${common[@]}" --steps 400 --source target \
        --reference "$folder/supervised/fold$seed" --run-dir "$folder/oracle/fold$seed"
    score() { python evaluate.py "$folder/$1/fold$seed" --data "$stores" --domain "${@:2}"; }
    score supervised source target
    score supervised source target --otsu
    score supervised target --adabn
    score uda target
    score oracle target
    if [[ ${TRANSDUCTIVE:-0} == 1 ]]; then
        train train_uda.py "${uda[@]}" --steps 600 --transductive --run-dir "$folder/transductive/fold$seed"
        score transductive target
    fi
done
python -m evaluation.tables "runs/$name" --out "runs/$name" --demo
