#!/usr/bin/env bash
# All benchmarks on one GPU, in nine minutes or less; writes a log and a JSON file each.
#   benchmarks/gpu.sh [FOLDER]      default: runs/benchmarks
# Packages that the machine lacks may lie as wheels in `wheels/`. A part that fails or takes too long does not stop the
# others; the exit status then is 1.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
out=${1:-runs/benchmarks}
mkdir -p "$out"
python=${PYTHON:-python}
[[ -d wheels ]] && "$python" -m pip install --quiet --no-index --no-deps wheels/*.whl
status=0

part() { # NAME SECONDS MODULE OPTIONS...
    local name=$1 limit=$2
    shift 2
    echo "== $name"
    if timeout "$limit" "$python" -m "$@" --json "$out/$name.json" > "$out/$name.log" 2>&1; then
        grep '^|' "$out/$name.log"
    else
        echo "$name: exit status $?, see $out/$name.log"
        status=1
    fi
}

study="--batch-size 8 --steps 10 --blocks 5 --no-published"
# shellcheck disable=SC2086  # words on purpose
{
    part step_uda 70 benchmarks.step $study --profile 10
    part step_uda_compiled 150 benchmarks.step $study --compile
    part step_uda_loader 70 benchmarks.step $study --loader --workers 7
    part step_supervised 50 benchmarks.step --script train_supervised --batch-size 12 --steps 10 --no-published
}
part step_published 70 benchmarks.step --batch-size 2 --steps 5 --blocks 5 --profile 10
part loader 60 benchmarks.loader --tiles 60 --workers 4 8 16
part inference 70 benchmarks.inference --model deeplabv2_resnet101 --sides 4000
exit $status
