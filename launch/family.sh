#!/usr/bin/env bash
# The jobs of one family of a study that are not done yet: printed, run here, or submitted as one sbatch array.
#   launch/family.sh FAMILY [--dry-run | --submit] [EXPERIMENT ...] [-- options of the training scripts]
# STUDY=launch/experiments.toml   DATA=stores   PROCESSES=4 (of a training run)   JOBS=1 (at once, run here)
# DEPENDENCY=afterok:123          what a submitted array waits for; --submit prints the array's job id
set -euo pipefail
cd "$(dirname "$0")/.."
family=$1
shift
mode=run only=() rest=()
while (($#)); do
    case $1 in
        --dry-run) mode=print ;;
        --submit) mode=submit ;;
        --) shift && rest=("$@") && break ;;
        -*) echo "error: $1 is neither --dry-run nor --submit; options of the scripts follow --" >&2 && exit 2 ;;
        *) only+=("$1") ;;
    esac
    shift
done

study=${STUDY:-launch/experiments.toml}
plan() {
    python -m launch.plan "$family" --experiments "$study" --data "${DATA:-stores}" \
        --processes "${PROCESSES:-4}" --only "${only[@]}" --rest "${rest[@]}"
}
jobs=$(plan)
[[ -n $jobs ]] || exit 0
case $mode in
    print) echo "$jobs" ;;
    run) # a failed job does not stop the others; xargs then ends with 123
        awk -v family="$family" -v count="$(wc -l <<< "$jobs")" \
            '{ printf "echo \"== %s: %d of %d\"; %s%c", family, NR, count, $0, 0 }' <<< "$jobs" |
            xargs -0 -n 1 -P "${JOBS:-1}" bash -c
        ;;
    submit)
        list=$(mktemp -p "$(mkdir -p runs/jobs && echo runs/jobs)" "$family.XXXXXX")
        echo "$jobs" > "$list"
        sbatch --parsable --job-name="$family" --array="0-$(($(wc -l < "$list") - 1))" \
            ${DEPENDENCY:+"--dependency=$DEPENDENCY"} launch/slurm/jobs.sbatch "$list"
        ;;
esac
