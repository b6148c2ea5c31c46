#!/usr/bin/env bash
# The jobs of one family of a study that are not done yet: printed, run here, or submitted as one sbatch array.
#   launch/family.sh FAMILY [--dry-run | --submit] [EXPERIMENT ...] [-- options of the training scripts]
# PROCESSES=1 JOBS=4   runs side by side, each on a GPU of its own: the shortest way through a study on four GPUs
# PROCESSES=4 JOBS=1   one run after the other, each on four GPUs (the default)
# A job that runs here sees PROCESSES GPUs and no others, of those in CUDA_VISIBLE_DEVICES where it is set; empty means
# the CPU. A submitted job asks for PROCESSES GPUs, unless SBATCH_GRES is set, and for CPUS=8 cores a process.
# STUDY=launch/experiments.toml   DATA=stores
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
export PROCESSES=${PROCESSES:-4} JOBS=${JOBS:-1}
for name in PROCESSES JOBS; do
    [[ ${!name} =~ ^[1-9][0-9]*$ ]] || { echo "error: $name=${!name}: is no number from 1" >&2 && exit 2; }
done
plan() {
    python -m launch.plan "$family" --experiments "$study" --data "${DATA:-stores}" \
        --processes "$PROCESSES" --only "${only[@]}" --rest "${rest[@]}"
}
jobs=$(plan)
[[ -n $jobs ]] || exit 0
[[ $jobs == *torchrun* ]] || PROCESSES=1 # scores alone: one GPU does
case $mode in
    print) echo "$jobs" ;;
    run) # a failed job does not stop the others; xargs then ends with 123
        GPUS=$(python -m common.gpus)
        export GPUS
        there=$(wc -w <<< "$GPUS")
        if ((there > 0 && JOBS * PROCESSES > there)); then
            echo "error: JOBS=$JOBS with PROCESSES=$PROCESSES need $((JOBS * PROCESSES)) GPUs, and there are $there." \
                "Give smaller numbers; jobs share a GPU that CUDA_VISIBLE_DEVICES names several times" >&2 && exit 2
        fi
        own() { # the GPUs of one of the jobs at a time, whose number among them xargs puts into PLACE
            local gpus
            read -ra gpus <<< "${GPUS//$'\n'/ }"
            ((${#gpus[@]} == 0)) || CUDA_VISIBLE_DEVICES=$(IFS=, && echo "${gpus[*]:PLACE * PROCESSES:PROCESSES}")
            export CUDA_VISIBLE_DEVICES
        }
        export -f own
        awk -v family="$family" -v count="$(wc -l <<< "$jobs")" \
            '{ printf "own; echo \"== %s: %d of %d\"; %s%c", family, NR, count, $0, 0 }' <<< "$jobs" |
            xargs -0 -n 1 -P "$JOBS" --process-slot-var=PLACE bash -c
        ;;
    submit)
        list=$(mktemp -p "$(mkdir -p runs/jobs && echo runs/jobs)" "$family.XXXXXX")
        echo "$jobs" > "$list"
        SBATCH_GRES=${SBATCH_GRES:-gpu:$PROCESSES} sbatch --parsable --job-name="$family" \
            --array="0-$(($(wc -l < "$list") - 1))" --cpus-per-task="$((${CPUS:-8} * PROCESSES))" \
            ${DEPENDENCY:+"--dependency=$DEPENDENCY" --kill-on-invalid-dep=yes} launch/slurm/jobs.sbatch "$list"
        ;;
esac
