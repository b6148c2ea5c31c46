#!/usr/bin/env bash
# From nothing to a scored adaptation on drawn micrographs, by the launcher that a laboratory's folder takes
# (launch/adapt.sh); `make demo` calls it.
#   SEEDS="0 1 2"   one whole demonstration a seed (drawing, initialisation, batches), then the means
#   PHASES=3        draws a third phase; it all goes to runs/demo.3phases then
#   PROCESSES=1     so many processes a training; one has two threads on the CPU, several have one each
#   CONTROL=1       trains a control without adversary (lambda_adv = 0) too
set -euo pipefail
cd "$(dirname "$0")/.."

SEEDS=${SEEDS:-0}
PHASES=${PHASES:-2}
runs=runs/demo uda=demo.uda
[[ $PHASES == 2 ]] || runs=runs/demo.${PHASES}phases uda=demo.uda.phases
processes=${PROCESSES:-1}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((processes > 1 ? 1 : 2))}

for seed in $SEEDS; do
    folder=$runs/seed$seed
    domains=$folder/micrographs/domains.toml
    mkdir -p "$folder"
    began=$SECONDS

    [[ -f $domains ]] || # drawn already: go on where the last call was stopped
        python -m data.synthetic --size demo --phases "$PHASES" --seed "$seed" --out "$folder/micrographs"
    python -m data.prepare "$domains" --out "$folder/stores"
    data=$((SECONDS - began))

    training=(--seed "$seed" --workers 0)
    launch/adapt.sh "$domains" --source source --target t3 --out "$folder" --folds 1 --always-adapt \
        --experiments demo.supervised "$uda" --processes "$processes" -- "${training[@]}"
    began=$SECONDS

    score() { python evaluate.py "$folder/$1/fold0" --data "$data_of" --domain "${@:2}"; }
    expect() { # of a target that nothing is adapted to
        python -m evaluation.choose "$folder/supervised/fold0" --domain "$1" --data "$folder/stores" \
            --out "$folder/choice.$1" --calibration "$folder/calibration.json"
    }
    data_of=$folder/stores
    score supervised source t1 t2 t3 # the source first: the others are measured against it
    score supervised source t1 t2 t3 --otsu & # two at a time: much of each is done by one core
    score supervised t1 t2 t3 --adabn
    wait $!
    [[ ! -d $folder/remedied ]] || data_of=$folder/remedied # with polarity and grey levels that the judge recommended
    score uda t3 source &
    expect t1
    wait $!
    expect t2
    evaluate=$((SECONDS - began))

    if [[ ${CONTROL:-0} == 1 ]]; then
        torchrun --standalone --nproc_per_node="$processes" train_uda.py --experiment "$uda" --target t3 \
            --data "$data_of" "${training[@]}" --reference "$folder/supervised/fold0" \
            --pretraining "$folder/supervised/fold0" \
            --lambda-adv-main 0 --lambda-adv-aux 0 --run-dir "$folder/control/fold0"
        score control t3
    fi

    [[ -f $folder/seconds.json ]] || # the first call counts, later ones skip what is finished
        printf '{"install": %s, "data": %s, "evaluate": %s}\n' \
            "$(cat .venv/.installed)" "$data" "$evaluate" > "$folder/seconds.json"
done

python -m evaluation.tables "$runs" --out "$runs" --demo
