#!/usr/bin/env bash
# Methods past the study, in every fold, trained and scored: the source model first, then AdaptSegNet, then the methods.
#   launch/methods.sh [--dry-run | --submit] [METHOD ...] [-- options of the training scripts]       more: launch/family.sh
#   launch/methods.sh ADVENT DACS AdaptSegNet-DACS        TARGETS="t1 t2 t3"
#   TWIN=small. PROCESSES=1 DATA=runs/demo/seed0/stores launch/methods.sh DACS      # on drawn micrographs and two cores
# Without METHOD all of launch/methods.toml but IntraDA, which is launch/intra.sh. Called again it does what is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
mode=() methods=() rest=()
while (($#)); do
    case $1 in
        --dry-run | --submit) mode=("$1") ;;
        --) shift && rest=(-- "$@") && break ;;
        -*) echo "error: $1 is neither --dry-run nor --submit; options of the scripts follow --" >&2 && exit 2 ;;
        *) methods+=("$1") ;;
    esac
    shift
done
((${#methods[@]})) ||
    methods=(ADVENT MinEnt FDA-0.01 FDA-0.05 FDA-0.09 histogram half-histogram DACS MIC AdaptSegNet-DACS histogram-DACS
        DAST DAST-ST translation)
declare -A before=([DAST-ST]=DAST [histogram-DACS]=histogram) # what they start from
for name in "${!before[@]}"; do
    [[ " ${methods[*]} " != *" $name "* || " ${methods[*]} " == *" ${before[$name]} "* ]] || methods+=("${before[$name]}")
done
read -ra targets <<< "${TARGETS:-t1 t2 t3}"
twin=${TWIN:-} source=S.10 first=() second=() third=()
[[ -n $twin ]] && source=${twin}source
for target in "${targets[@]}"; do
    adapted=${twin}AdaptSegNet-$target
    [[ -n $twin ]] || adapted=$(case $target in t1) echo T1.11 ;; t2) echo T2.11 ;; *) echo T3.2 ;; esac)
    first+=("$adapted")
    for method in "${methods[@]}"; do
        if [[ -n ${before[$method]:-} ]]; then third+=("$twin$method-$target"); else second+=("$twin$method-$target"); fi
    done
done
export STUDY=${STUDY:-launch/methods.toml}

family() { # what is submitted waits for what was submitted before it
    local line=(launch/family.sh "$1" "${mode[@]}" "${@:2}" "${rest[@]}") job
    if [[ ${mode[*]} != --submit ]]; then "${line[@]}" || exit; return; fi
    job=$("${line[@]}")
    [[ -z $job ]] || { echo "$job" && export DEPENDENCY=afterok:$job; }
}
family supervised "$source"
family generalization "$source"
family uda "${first[@]}"
family uda "${second[@]}"
((${#third[@]} == 0)) || family uda "${third[@]}"
