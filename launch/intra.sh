#!/usr/bin/env bash
# IntraDA of one target and fold: ADVENT, the easy half of the target by its entropy, and from there to the hard half.
#   launch/intra.sh [--dry-run] t3 [FOLD]      PROCESSES=4 DATA=stores EASY=0.5
#   TWIN=small. launch/intra.sh t3             on drawn micrographs and two cores: PROCESSES=1 DATA=runs/demo/seed0/stores
# Called again it goes on where it was stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
say=
[[ ${1:-} == --dry-run ]] && say=echo && shift
target=${1:?give the target: t1, t2 or t3} fold=${2:-0}
data=${DATA:-stores} first=${TWIN:-}ADVENT-$target second=${TWIN:-}IntraDA-$target
intra=runs/$first/fold$fold/intra
train() { $say torchrun --standalone --nproc_per_node="${PROCESSES:-4}" train_uda.py --fold "$fold" "$@"; }

train --experiment "$first" --data "$data"
[[ -f $intra/hard.json ]] || $say python -m evaluation.intra "runs/$first/fold$fold" --data "$data" --easy "${EASY:-0.5}"
train --experiment "$second" --data "$intra" --selection "$intra/hard.json"
$say python evaluate.py "runs/$first/fold$fold" "runs/$second/fold$fold" --data "$data" --domain "$target"
