#!/usr/bin/env bash
# Tables 3-5: every adaptation in every fold, trained and scored on target and source.
#   PROCESSES=1 JOBS=4 launch/uda.sh            four runs at once, each on a GPU of its own
#   launch/uda.sh [--dry-run | --submit] [T1.11 T3.2 ...] [-- --amp fp16]                 more: launch/family.sh
exec "$(dirname "$0")/family.sh" uda "$@"
