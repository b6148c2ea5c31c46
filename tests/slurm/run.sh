#!/usr/bin/env bash
# The jobs of launch/slurm on a real SLURM, started on this machine for the time of the test (`make test-slurm`).
# SLURM_TABLE=runs/slurm.md writes what was measured there; SLURM_JOBS="requeue usr1" takes some jobs only;
# LIMIT is the time that all of it may take, in seconds.
set -euo pipefail
cd "$(dirname "$0")/../.."
skip() { echo "test-slurm skipped: $1" && exit 0; }

((EUID == 0)) || skip "slurmd and munged want root"
have() { # each of these commands: `command -v` with several names is content with one
    local name
    for name; do command -v "$name" > /dev/null || return 1; done
}
if ! have slurmctld slurmd munged scancel setsid; then
    command -v apt-get > /dev/null || skip "no SLURM here, and no apt-get to install slurm-wlm and munge with"
    echo "installing slurm-wlm and munge"
    export DEBIAN_FRONTEND=noninteractive
    { timeout 120 apt-get -qq update &&
        timeout 180 apt-get -qq install --yes --no-install-recommends slurm-wlm munge; } > /dev/null 2>&1 ||
        skip "apt-get cannot install slurm-wlm and munge (no internet?)"
fi
# Interrupted, not killed, at the limit: pytest then stops the daemons and jobs that it started.
exec timeout --signal=INT --kill-after=90 "${LIMIT:-720}" .venv/bin/python -m pytest -p no:cacheprovider -p no:xdist \
    tests/slurm/slurm_jobs.py "$@"
