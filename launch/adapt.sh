#!/usr/bin/env bash
# From a folder of micrographs to segmented images and a report, in one command (launch/adapt.py):
#   launch/adapt.sh domains.toml --source sem --target lom
#   launch/adapt.sh domains.toml --source sem --target lom --dry-run      every command, and nothing is done
#   launch/adapt.sh domains.toml --source sem --target lom --submit       the same as SLURM jobs, each after what it needs
# The same command again goes on where it was stopped. All options: --help
set -euo pipefail
cd "$(dirname "$0")/.."
exec python -m launch.adapt "$@"
