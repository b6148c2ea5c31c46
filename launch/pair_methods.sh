#!/usr/bin/env bash
# Every method on the pairs of launch/pairs.sh, beside each pair's own adaptation, and a table of them, TABLE.
# What is finished is skipped, so that METHODS and pairs may grow.
#   launch/pair_methods.sh runs/pairs/t3.0 runs/pairs/ebc.1       METHODS="ADVENT DACS oracle" STEPS=400 JOBS=1
# JOBS trainings run at a time: one method on all pairs, then the next.
# Each starts from the pair's source model, as the adaptation did, on the store that it took, for as many steps;
# AdaptSegNet-DACS, histogram-DACS, half-histogram-DACS and DAST-ST from what they follow. The method by which the pair was
# adapted is not trained again. half-histogram and what follows it are the launcher's trainings: CHOICES=launcher chooses
# among them and the source model alone. The launcher itself does 800 steps of self-training, and no training at all
# where gap.json advises none.
# The oracle trains on the labels of the target's training micrographs, which drawn t1 and t2 do not have. It and what
# knows no target are no candidates of the choice.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
default="AdaptSegNet no-adversary ADVENT MinEnt FDA-0.05 histogram half-histogram DACS AdaptSegNet-DACS MIC DAST"
default+=" curves convolutions oracle histogram-DACS half-histogram-DACS DAST-ST"

with_folds() { # drawn t3 has a test set alone, and the oracle needs a fold to validate on
    local drawn=${pair%/*}/micrographs/seed$seed
    [[ $target == t3 ]] || return 0
    trained_on=$pair/with_folds
    sed "/^\[domains.$target\]/a folds = 5" "$drawn/domains.toml" > "$drawn/$target.toml"
    local as_advised=()
    [[ $data != */remedied ]] || as_advised=(--gap "$pair/gap/gap.json")
    python -m data.prepare "$drawn/$target.toml" --domain source --domain "$target" --out "$trained_on" \
        "${as_advised[@]}"
}

about() { # PAIR: what its adaptation was made of
    pair=$1 of=$1/methods
    { read -r seed && read -r fold && read -r data && read -r target && read -r adaptation; } < <(
        python -c 'import json, sys; c = json.load(open(sys.argv[1]))
print(*(c[name] for name in ("seed", "fold", "data", "target", "experiment")), sep="\n")' "$pair/uda/fold0/config.json"
    )
}

run_of() { # METHOD: its run, which is the pair's adaptation where that is it
    case $1:$adaptation in
        AdaptSegNet:demo.uda | half-histogram:demo.half-histogram) echo "$pair/uda/fold0" ;;
        *) echo "$of/$1" ;;
    esac
}

method() { # NAME PAIR: train it and score it, where its outcome is missing
    local pair of seed fold data target adaptation run
    about "$2"
    run=$(run_of "$1")
    [[ $run != "$pair/uda/fold0" ]] || return 0
    local script=train_uda start=$pair/supervised/fold0 from=source experiment=small.$1-t3
    local training=() network=() trained_on=$data
    [[ ! -f $run/evaluation/$target/score.json ]] || return 0
    [[ $1 != oracle || $target != t[12] ]] || return 0
    case $1 in
        no-adversary | curves | convolutions | regions) experiment=small.$1 ;;
        oracle) experiment=small.source from=$target && with_folds ;;
        half-histogram-DACS) experiment=small.AdaptSegNet-DACS-t3 ;;&
        *histogram-DACS | AdaptSegNet-DACS) start=$(run_of "${1%-DACS}") ;;
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

choose() { # choice PAIR: among its generalization, remedy and adaptation and the methods that have adapted to its target
    local pair of seed fold data target adaptation config candidates=()
    about "$2"
    if [[ $1 == launcher ]]; then
        candidates=("$(run_of half-histogram)/last.pt" "$of/half-histogram-DACS") # without what it kept on its way
        [[ -d ${candidates[1]} ]] || return 0
    else
        candidates=("$pair/uda/fold0")
        for config in "$of"/*/config.json; do
            [[ ! -f $config ]] || ! grep -q '"target": "' "$config" || candidates+=("${config%/*}")
        done
    fi
    python -m evaluation.choose "$pair/supervised/fold0" "${candidates[@]}" --domain "$target" \
        --gap "$pair/gap/gap.json" --data "$data" --calibration "$pair/calibration.json" --score --out "$of/$1"
}

on_all_pairs() { # FUNCTION NAME...: a failure does not stop the others; xargs then ends with 123
    for name in "${@:2}"; do
        for pair in "${pairs[@]}"; do
            printf '%s\0' "$name" "$pair"
        done
    done | xargs -0 -r -n 2 -P "${JOBS:-1}" bash -euo pipefail -c "$1"' "$@"' _
}

pairs=("$@")
export -f with_folds about run_of method choose
names=" ${METHODS-$default} "
declare -A before=([DAST-ST]=DAST) # what they go on from
for name in AdaptSegNet histogram half-histogram; do
    before[$name-DACS]=$name
done
first=$names last=()
for name in "${!before[@]}"; do
    [[ $names == *" $name "* ]] || continue
    last+=("$name")
    first=${first/ $name / }
    [[ $first == *" ${before[$name]} "* ]] || first+="${before[$name]} "
done
# shellcheck disable=SC2086  # words on purpose
on_all_pairs method $first
on_all_pairs method "${last[@]}"
# shellcheck disable=SC2086
on_all_pairs choose ${CHOICES-choice launcher}

python -m benchmarks.methods "${pairs[@]}" --out "${TABLE:-docs/methods_pairs.csv}"
