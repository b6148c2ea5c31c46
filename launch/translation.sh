#!/usr/bin/env bash
# The source drawn as the target, and a model trained on it: translation, its store, the training, the scores.
#   launch/translation.sh [--dry-run] t3 [FOLD]      PROCESSES=4 DATA=stores
#   TWIN=small. launch/translation.sh t3             on drawn micrographs and two cores: PROCESSES=1 DATA=runs/demo/seed0/stores
# Called again it goes on where it was stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
say=
[[ ${1:-} == --dry-run ]] && say=echo && shift
target=${1:?give the target: t1, t2 or t3} fold=${2:-0}
data=${DATA:-stores} twin=${TWIN:-}
supervised=S.10
[[ -n $twin ]] && supervised=${twin}source
reference=runs/$supervised/fold$fold first=runs/${twin}translation-$target/fold$fold second=runs/${twin}translated-$target/fold$fold
train() { $say torchrun --standalone --nproc_per_node="${PROCESSES:-4}" "$@" --fold "$fold"; }

train train_supervised.py --experiment "$supervised" --data "$data"
train train_translation.py --experiment "${twin}translation-$target" --data "$data"
[[ -f $first/translated.jpg ]] || $say python -m evaluation.translate "$first" --data "$data"
train train_supervised.py --experiment "$supervised" --data "$first/stores" --source "source-as-$target" --run-dir "$second" \
    --reference "$reference"
$say python evaluate.py "$reference" "$second" --data "$data" --domain "$target"
