#!/usr/bin/env bash
# A training at the study's size on one GPU: is resumed as uninterrupted there, a source model, its adaptation, scores.
#   benchmarks/gpu_training.sh STORES FOLDER [options of the training scripts]       STEPS=300  WORKERS=12
#                         STEPS=0 leaves out all but the run that is killed and resumed
# STORES has the domains `source` and `target`.
# S.10 and T3.2 with their networks, tiles, batches and learning rates, from random weights and for few steps.
set -euo pipefail
cd "$(dirname "$0")/.."
stores=$1 out=$2 steps=${STEPS:-300}
common=(--data "$stores" --workers "${WORKERS:-12}" --wandb disabled --log-every 20 --validate-every 100000 "${@:3}")
export WANDB_MODE=disabled

train() { # SCRIPT, options
    torchrun --standalone --nproc_per_node=1 "$1.py" "${@:2}" "${common[@]}"
}
from_random=(--experiment S.10 --pretraining random)
adapting=(--experiment T3.2 --target target --reference "$out/supervised")

if ((steps)); then
    began=$SECONDS
    train train_supervised "${from_random[@]}" --run-dir "$out/supervised" --steps "$steps"
    echo "source model: $((SECONDS - began)) s with start and end"
    began=$SECONDS
    train train_uda "${adapting[@]}" --pretraining "$out/supervised" --run-dir "$out/uda" --steps "$steps"
    echo "adaptation: $((SECONDS - began)) s with start and end"
    for run in supervised uda; do
        python evaluate.py "$out/$run" --data "$stores" --domain target
    done
fi

# Killed after its first checkpoint at the earliest, and started again, against a run that nobody disturbed.
small=(--steps 16 --checkpoint-every 4 --deterministic --pretraining random)
train train_uda "${adapting[@]}" "${small[@]}" --run-dir "$out/whole"
train train_uda "${adapting[@]}" "${small[@]}" --run-dir "$out/killed" &
until [[ -f $out/killed/last.pt ]]; do
    kill -0 $! # it has failed
    sleep 0.2
done
pkill -KILL -f -- "--run-dir $out/killed"
wait $! || echo "killed: exit status $?"
train train_uda "${adapting[@]}" "${small[@]}" --run-dir "$out/killed"
PYTHONPATH=.:tests${PYTHONPATH:+:$PYTHONPATH} python - "$out" << 'END'
import pathlib
import sys

from short_runs import differences

differing = differences(*(pathlib.Path(sys.argv[1], run) for run in ("whole", "killed")))
print("killed and resumed, as uninterrupted:", ", ".join(differing) or "the same bits")
sys.exit(bool(differing))
END
