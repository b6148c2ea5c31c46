#!/usr/bin/env bash
# Every method on the pairs of launch/pairs.sh, beside each pair's own adaptation, and docs/methods_pairs.csv.
# What is finished is skipped, so that METHODS and pairs may grow.
#   launch/pair_methods.sh runs/pairs/t3.0 runs/pairs/ebc.1       METHODS="ADVENT DACS oracle" STEPS=400
# Each starts from the pair's source model, as the adaptation did, on the store that it took, for as many steps;
# AdaptSegNet-DACS and DAST-ST from what they follow. The oracle trains on the labels of the target's training
# micrographs. It and what knows no target are no candidates of the choice.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
default="no-adversary ADVENT MinEnt FDA-0.05 histogram DACS AdaptSegNet-DACS MIC DAST DAST-ST curves convolutions oracle"

with_folds() { # drawn t1, t2 and t3 have a test set alone, and the oracle needs a fold to validate on
    local drawn=${pair%/*}/micrographs/seed$seed
    [[ $target == t? ]] || return 0
    trained_on=$pair/with_folds
    sed "/^\[domains.$target\]/a folds = 5" "$drawn/domains.toml" > "$drawn/$target.toml"
    python -m data.prepare "$drawn/$target.toml" --domain source --domain "$target" --out "$trained_on"
}

method() { # NAME: train it and score it, where its outcome is missing
    local run=$of/$1 script=train_uda start=$pair/supervised/fold0 from=source experiment=small.$1-t3
    local training=() network=() trained_on=$data
    [[ ! -f $run/evaluation/$target/score.json ]] || return 0
    case $1 in
        no-adversary | curves | convolutions | regions) experiment=small.$1 ;;
        oracle) experiment=small.source from=$target && with_folds ;;
        AdaptSegNet-DACS) start=$pair/uda/fold0 ;;
        DAST-ST) start=$of/DAST ;;
    esac
    case $1 in
        oracle | curves | convolutions | regions) script=train_supervised ;;
        *DACS | *-ST | MIC) script=train_selftraining training=(--target "$target") network=(--network teacher) ;;
        *) training=(--target "$target") ;;
    esac
    python "$script.py" --experiment "$experiment" --source "$from" "${training[@]}" --data "$trained_on" --run-dir "$run" \
        --seed "$seed" --fold "$fold" --reference "$pair/supervised/fold0" --pretraining "$start" \
        --steps "${STEPS:-400}" --workers 0 --wandb disabled
    ((${#network[@]} == 0)) || python evaluate.py "$run" --data "$data" --domain "$target" "${network[@]}"
    python evaluate.py "$run" --data "$data" --domain "$target"
}

for pair; do
    of=$pair/methods
    read -r seed fold data target < <(python -c 'import json, sys; c = json.load(open(sys.argv[1]))
print(c["seed"], c["fold"], c["data"], c["target"])' "$pair/uda/fold0/config.json")
    candidates=()
    for name in ${METHODS:-$default}; do
        method "$name"
    done
    for config in "$of"/*/config.json; do
        ! grep -q '"target": "' "$config" || candidates+=("${config%/*}")
    done
    python -m evaluation.choose "$pair/supervised/fold0" "$pair/uda/fold0" "${candidates[@]}" --domain "$target" \
        --gap "$pair/gap/gap.json" --data "$data" --calibration "$pair/calibration.json" --score --out "$of/choice"
done

python -m benchmarks.methods "$@" --out docs/methods_pairs.csv
