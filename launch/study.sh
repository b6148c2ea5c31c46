#!/usr/bin/env bash
# The whole study, dependencies first: what is finished is skipped, what was broken off is continued.
#   launch/study.sh --dry-run        every command that is left, once, in order
#   PROCESSES=1 JOBS=4 launch/study.sh    run them here, four at once, each on a GPU of its own
#   launch/study.sh                  run them here, one after the other on four GPUs    STUDY=launch/small.toml DATA=...
#   launch/study.sh --submit         one sbatch array a family, each after what it needs; PROCESSES=1: a GPU a job
set -euo pipefail
cd "$(dirname "$0")/.."
study=${STUDY:-launch/experiments.toml}

if [[ ${1:-} == --submit ]]; then
    declare -A id
    submit() { # FAMILY NEEDED...: waits for those of the needed families that were submitted
        local family=$1 needed=
        shift
        for other in "$@"; do needed+=${id[$other]:+:${id[$other]}}; done
        id[$family]=$(DEPENDENCY=${needed:+afterok$needed} launch/family.sh "$family" --submit)
        echo "$family: ${id[$family]:-nothing to do}${needed:+, after $needed}"
    }
    submit pretrain
    submit supervised pretrain
    submit generalization supervised
    submit uda supervised
    submit selection uda
    submit shifted selection
    submit ensemble supervised uda
    echo "then: python -m evaluation.tables <runs> --experiments $study --out report"
    exit
fi
for family in pretrain supervised generalization uda selection shifted ensemble; do
    launch/family.sh "$family" "$@"
done
