#!/usr/bin/env bash
# From nothing to a scored adaptation on drawn micrographs; `make demo` calls it.
#   SEEDS="0 1 2"   one whole demonstration a seed (drawing, initialisation, batches), then the means
#   PROCESSES=1     so many processes a training; one has two threads on the CPU, several have one each
#   CONTROL=1       trains a control without adversary (lambda_adv = 0) too
set -euo pipefail
cd "$(dirname "$0")/.."

SEEDS=${SEEDS:-0}
processes=${PROCESSES:-1}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((processes > 1 ? 1 : 2))}
train() { torchrun --standalone --nproc_per_node="$processes" "$@"; }

for seed in $SEEDS; do
    folder=runs/demo/seed$seed
    mkdir -p "$folder"
    began=$SECONDS

    [[ -f $folder/micrographs/domains.toml ]] || # drawn already: go on where the last call was stopped
        python -m data.synthetic --size demo --seed "$seed" --out "$folder/micrographs"
    python -m data.prepare "$folder/micrographs/domains.toml" --out "$folder/stores"
    python -m data.verify "$folder/stores"
    data=$((SECONDS - began)) began=$SECONDS

    common=(--data "$folder/stores" --seed "$seed" --workers 0)
    train train_supervised.py --experiment demo.supervised "${common[@]}" --run-dir "$folder/supervised"
    supervised=$((SECONDS - began)) began=$SECONDS

    uda=(--experiment demo.uda --target t3 "${common[@]}" --reference "$folder/supervised")
    train train_uda.py "${uda[@]}" --run-dir "$folder/uda"
    adaptation=$((SECONDS - began)) began=$SECONDS

    score() { python evaluate.py "$folder/$1" --data "$folder/stores" --domain "${@:2}"; }
    score supervised source t1 t2 t3 # the source first: the others are measured against it
    score supervised source t1 t2 t3 --otsu
    score supervised t1 t2 t3 --adabn
    score uda t3 source
    evaluate=$((SECONDS - began)) began=$SECONDS

    if [[ ${CONTROL:-0} == 1 ]]; then
        train train_uda.py "${uda[@]}" --lambda-adv-main 0 --lambda-adv-aux 0 --run-dir "$folder/control"
        score control t3
    fi

    [[ -f $folder/seconds.json ]] || # the first call counts, later ones skip what is finished
        printf '{"install": %s, "data": %s, "supervised": %s, "uda": %s, "evaluate": %s}\n' \
            "$(cat .venv/.installed)" "$data" "$supervised" "$adaptation" "$evaluate" > "$folder/seconds.json"
done

python -m evaluation.tables runs/demo --out runs/demo --demo
