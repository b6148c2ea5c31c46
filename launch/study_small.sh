#!/usr/bin/env bash
# The study's complete matrix on drawn micrographs, with small networks and few steps: launch/small.toml. `make study-small`
# calls it; called again it goes on where it was stopped.
#   JOBS=2    runs at once, one process each (default: one for each GPU, without GPUs one for each core)
set -euo pipefail
cd "$(dirname "$0")/.."
folder=runs/small
began=$SECONDS
gpus=$(python -m common.gpus | wc -w)
jobs=${JOBS:-$((gpus > 0 ? gpus : $(nproc)))} # before OMP_NUM_THREADS is set, which nproc would heed
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} WANDB_MODE=${WANDB_MODE:-disabled}

[[ -f $folder/micrographs/domains.toml ]] ||
    python -m data.synthetic --size demo --seed 0 --out "$folder/micrographs"
python -m data.prepare "$folder/micrographs/domains.toml" --out "$folder/stores"
python -m data.verify "$folder/stores"
for set in everyday:1 nanosem:2; do
    pictures=$folder/${set%:*}
    [[ -f $pictures/truth.csv ]] || python -m data.synthetic_nanosem --out "$pictures" --images 500 --seed "${set#*:}"
    [[ -f $pictures.h5 ]] || python -m data.nanosem "$pictures" --size 96
done

STUDY=launch/small.toml DATA=$folder/stores PROCESSES=1 JOBS=$jobs launch/study.sh
python -m evaluation.tables "$folder" --experiments launch/small.toml --out "$folder/report"
echo "$((SECONDS - began)) seconds"
