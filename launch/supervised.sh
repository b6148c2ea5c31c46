#!/usr/bin/env bash
# Table 2: every supervised experiment in every fold, trained and scored on the source.
#   PROCESSES=1 JOBS=4 launch/supervised.sh     four runs at once, each on a GPU of its own
#   launch/supervised.sh [--dry-run | --submit] [S.6 S.10 ...] [-- --wandb online]        more: launch/family.sh
exec "$(dirname "$0")/family.sh" supervised "$@"
