#!/usr/bin/env bash
# Table 2: every supervised experiment in every fold, trained and scored on the source.
#   launch/supervised.sh [--dry-run | --submit] [S.6 S.10 ...] [-- --wandb online]        more: launch/family.sh
exec "$(dirname "$0")/family.sh" supervised "$@"
