#!/usr/bin/env bash
# From a folder of micrographs to segmented images and a report, in one command (launch/adapt.py):
#   launch/adapt.sh domains.toml --source sem --target lom
#   launch/adapt.sh domains.toml --source sem --target lom --dry-run      every command, and nothing is done
#   launch/adapt.sh domains.toml --source sem --target lom --submit       the same as SLURM jobs, each after what it needs
# The same command again goes on where it was stopped. All options: --help
set -euo pipefail
cd "$(dirname "$0")/.."
python -c 'import h5py' 2> /dev/null || {
    echo "error: this shell has no Python with the project's packages. In $PWD: make .venv/.installed, then" \
        "source .venv/bin/activate" >&2
    exit 1
}
exec python -m launch.adapt "$@"
