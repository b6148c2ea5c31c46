#!/usr/bin/env bash
# All benchmarks on one GPU, in nine minutes or less; writes gpu.log and gpu.json.
#   benchmarks/gpu.sh [FOLDER]      default: runs/benchmarks, whose files are replaced
#   PARTS="loader inference"        those alone
# Packages that the machine lacks may lie as wheels in `wheels/`. A part that fails or takes too long does not stop the
# others; the exit status then is 1.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
out=${1:-runs/benchmarks}
mkdir -p "$out"
out=$(realpath "$out")
parts=$(mktemp -d)
trap 'rm -rf "$parts"' EXIT
python=${PYTHON:-python}
if [[ -d wheels ]]; then
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$parts/site" wheels/*.whl || exit
    export PYTHONPATH=$parts/site
fi
status=0
: > "$out/gpu.log"

part() { # NAME SECONDS MODULE OPTIONS...
    local name=$1 limit=$2 began=$SECONDS
    [[ " ${PARTS:-$name} " == *" $name "* ]] || return 0
    shift 2
    echo "== $name" | tee -a "$out/gpu.log"
    # KILL after TERM, which training takes for a request to stop after its step.
    if timeout -k 2 "$limit" "$python" -m "$@" --json "$parts/$name.json" > "$parts/log" 2>&1; then
        grep '^|' "$parts/log"
    else
        echo "$name: exit status $? after $((SECONDS - began)) s, see $out/gpu.log"
        status=1
    fi
    cat "$parts/log" >> "$out/gpu.log"
}

study="--batch-size 8 --no-published"
# shellcheck disable=SC2086  # words on purpose
{
    part step_uda 70 benchmarks.step $study --steps 5 --blocks 8 --profile 10
    part step_uda_loader 50 benchmarks.step $study --steps 10 --loader --workers 7
    part step_supervised 40 benchmarks.step --script train_supervised --batch-size 12 --steps 10 --no-published
    part step_published 90 benchmarks.step --batch-size 2 --steps 5
    part loader 60 benchmarks.loader --tiles 30 --workers 4 8 16
    part inference 60 benchmarks.inference --model deeplabv2_resnet101 --sides 1000
    part step_uda_compiled 150 benchmarks.step $study --steps 10 --compile
}
if [[ ! -s $out/gpu.log ]]; then
    echo "error: PARTS='${PARTS:-}': no such part; the names are in $0" >&2
    exit 1
fi
"$python" - "$parts" "$out/gpu.json" << 'EOF'
import json, pathlib, sys
parts = {path.stem: json.loads(path.read_text()) for path in sorted(pathlib.Path(sys.argv[1]).glob("*.json"))}
pathlib.Path(sys.argv[2]).write_text(json.dumps(parts, indent=2) + "\n")
EOF
echo "$out/gpu.json: $SECONDS s"
exit $status
