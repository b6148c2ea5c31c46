#!/usr/bin/env bash
# How right the judge is: one folder of launch/adapt.sh for each pair whose target has labels, and docs/judge.md's table.
# What is finished is skipped.
#   launch/pairs.sh       SEEDS="0 1 2" TARGETS="t1 t2 t3 inverted enlarged blurred"       drawn micrographs
#                         REAL="ni_superalloy ebc uhcs_dark uhcs_bright" FOLDS="0 1 2"     those below micrographs/
#                         (ebc_back and ni_superalloy_back have source and target exchanged)
#                         STEPS=400     of an adaptation; the source's models have 700 on drawn micrographs, 400 on real
#                         ADAPTATION=demo.half-histogram      the launcher's; demo.uda is AdaptSegNet alone
#                         TABLE=docs/judge_pairs.csv          the file to write
# Of uhcs the darker micrographs are the source, or the brighter ones.
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${RUNS:-runs/pairs}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

pair() { # NAME, domains.toml, target, steps of the source's model, a folder that has one (else it is trained), seed, fold
    local out=$runs/$1 adaptation=${ADAPTATION:-demo.half-histogram}
    local config=$out/uda/fold0/config.json
    if [[ -f $config ]] && ! grep -q "\"experiment\": \"$adaptation\"" "$config"; then
        echo "error: $config: is not $adaptation; give another RUNS, or that ADAPTATION" >&2
        return 1
    fi
    [[ ! -f $out/row.csv ]] || return 0
    local adapt=(launch/adapt.sh "$2" --source source --target "$3" --out "$out" --always-adapt --folds 1
        --experiments demo.supervised "$adaptation" --processes 1 --yes)
    local training=(--workers 0 --wandb disabled --seed "$6" --fold "$7")
    "${adapt[@]}" --only prepare
    if [[ -d $runs/$5/supervised && ! -d $out/supervised ]]; then
        cp -r "$runs/$5"/{supervised,calibration.json} "$out"
    fi
    "${adapt[@]}" --only "supervised 0" -- "${training[@]}" --steps "$4"
    for step in gap remedied "uda 0" choose; do # each decides about the next
        "${adapt[@]}" --only "$step" -- "${training[@]}" --steps "${STEPS:-400}" --keep-every $((${STEPS:-400} / 2))
    done
    python -m benchmarks.judge "$out" --out "$out/row.csv"
}

for seed in ${SEEDS-0 1 2}; do
    drawn=$runs/micrographs/seed$seed
    targets=(${TARGETS-t1 t2 t3 inverted enlarged blurred})
    [[ -f $drawn/domains.toml ]] || python -m data.synthetic --size demo --changed --seed "$seed" --out "$drawn"
    for target in "${targets[@]}"; do
        pair "$target.$seed" "$drawn/domains.toml" "$target" 700 "${targets[0]}.$seed" "$seed" 0
    done
done

for name in ${REAL-ni_superalloy ebc uhcs_dark uhcs_bright}; do
    toml=docs/examples/$name.toml
    if [[ $name == *_back ]]; then
        toml=$runs/micrographs/$name.toml
        mkdir -p "${toml%/*}"
        sed "s#\"../../micrographs/#\"$PWD/micrographs/#; s/domains.source/domains.new/; s/domains.target/domains.source/
            s/domains.new/domains.target/" "docs/examples/${name%_back}.toml" > "$toml"
    elif [[ $name == uhcs_* ]]; then
        halves=$runs/micrographs/$name
        toml=$halves/domains.toml
        [[ -f $toml ]] || python -m benchmarks.halves micrographs/uhcs --foreground 170 --out "$halves" \
            $([[ $name == uhcs_dark ]] || echo --bright)
    fi
    for fold in ${FOLDS-0 1 2}; do
        pair "$name.$fold" "$toml" target 400 "$name.$fold" "$fold" "$fold"
    done
done

python -m benchmarks.judge "$runs"/*.? --out "${TABLE:-docs/judge_pairs.csv}"
