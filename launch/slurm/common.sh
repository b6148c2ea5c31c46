# Sourced by the batch scripts of this folder: how a job is told to stop, and comes back until its run is finished.
#
# SLURM tells a job to end in four ways (22.05; tests/slurm meets all of them):
#   time limit        SIGUSR1 to the batch shell some time before, because of --signal=B:USR1@SECONDS
#   scontrol requeue  SIGTERM to every process, SIGKILL after KillWait (30 s); SLURM queues the job again by itself
#   preemption        SIGTERM to the tasks of srun at once, SIGKILL after GraceTime; a batch shell without srun hears of
#                     it after GraceTime only, as by scontrol requeue, or at once by SIGUSR1 where the site has
#                     PreemptParameters=send_user_signal
#   scancel           SIGTERM, SIGKILL after KillWait; such a job must not come back
# The training scripts answer SIGTERM and SIGUSR1 with a checkpoint after the step, on GPUs within 20; the same
# command goes on from there.
set -euo pipefail
cd "$SLURM_SUBMIT_DIR"
export PATH="$PWD/.venv/bin:$PATH"
# torchrun dies of SIGUSR1 and leaves its workers behind unless told, and kills workers 30 s after it passed a signal on:
# too soon for one that is in the middle of a validation. Versions that do not know these two variables ignore them.
# Workers that it starts again would find the addresses of those that are gone in a store that it shares with them, and
# wait for them (pytorch issue 135712), so it shares none.
export PET_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=100
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

# A task of an array is named by array and index: the job id of one of them stands for the whole array in scontrol.
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID}
processes=${PROCESSES:-${SLURM_GPUS_ON_NODE:-1}} # of a node: one a GPU; without GPUs as many as PROCESSES says
((${SLURM_GPUS_ON_NODE:-0} <= processes)) ||
    echo "warning: PROCESSES=$processes of $SLURM_GPUS_ON_NODE GPUs: submit with --gres=gpu:$processes" >&2
restarts=2                                       # by torchrun, where a process was killed; a wrong option fails thrice
stop_code=75                                     # of training/preemption.py: start the same command again

asked='' # the signal that asked this shell to stop
child='' # the command that it runs
trap 'ask USR1' USR1
trap 'ask TERM' TERM

ask() {
    [[ -z $asked ]] || return 0 # a second signal would cut short how torchrun waits for the checkpoint
    asked=$1
    printf '\n%s: %s SIG%s, stopping after a checkpoint\n' "$job" "$(date +%T)" "$1" >&2 # below the progress bar
    [[ -z $child ]] || "$tell" || true # what cannot be told has ended
}

state() { scontrol show job "$job" | sed -n 's/.*JobState=\([A-Z]*\).*/\1/p'; }

# Two ways to pass the wish on. SIGTERM would make srun kill its tasks at once, so SLURM has to tell them; it has done so
# where it ends the job itself.
tell_group() { kill -TERM -- "-$child" 2> /dev/null || kill -TERM "$child"; }
tell_tasks() { [[ $(state) != RUNNING ]] || scancel --signal=TERM "$job"; }

# stoppable TELL COMMAND...: run the command, pass SIGTERM and SIGUSR1 on to it, and wait for its checkpoint.
# Returns its exit code, or stop_code when it was asked to stop and had not finished: torchrun itself ends with 1 then.
stoppable() {
    local code=0
    tell=$1
    shift
    setsid "$@" & # a group of its own, which can be signalled without this shell
    child=$!
    [[ -z $asked ]] || "$tell" || true # asked before there was a child
    while kill -0 "$child" 2> /dev/null; do wait "$child" || true; done # a trapped signal ends the wait too
    wait "$child" || code=$?
    ((code == 0)) || [[ -z $asked ]] || code=$stop_code
    return $code
}

# resumable TELL COMMAND...: run it as stoppable does; where it was stopped, put this job into the queue again. Ends the
# batch script. A command that failed is not started again.
resumable() {
    local code=0 now count=${SLURM_RESTART_COUNT:-0}
    stoppable "$@" || code=$?
    ((code == stop_code)) || exit $code
    now=$(state)
    if [[ $now != RUNNING ]]; then # being cancelled, or already queued again: not ours to decide
        echo "$job: stopped; SLURM itself ends this job ($now)" >&2
    elif ((count >= 100)); then # a time limit too short for a single step would go round for ever
        echo "$job: stopped, and not queued again after $count times; submit it again if it makes progress" >&2
    else
        echo "$job: stopped, queued again" >&2
        scontrol requeue "$job" && exit 0
    fi
    exit $code
}
