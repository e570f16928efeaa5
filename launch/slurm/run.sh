#!/usr/bin/env bash
# One start of a run under SLURM, called by the .sbatch files here, which name PROJECT and PYTHON:
#
#   run.sh FOLDER ARGUMENT...
#
# Starts Python with the arguments, one process for each task, which train in FOLDER. If that was stopped by a signal and
# has saved (exit code 85), the job goes back to the queue; its next start continues. Not if two starts in a row came no
# further. Otherwise this ends with the exit code of the training.
set -euo pipefail
folder=$1
shift

say() { echo "run.sh: $*" >&2; }
checkpoints=$folder/checkpoints
idle_starts=$folder/starts-without-progress
newest_checkpoint() { find "$checkpoints" -maxdepth 1 -name 'step-*' 2>/dev/null | sort | tail -n 1 || true; }
[ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] || rm -f "$idle_starts"
before=$(newest_checkpoint)

# Each task is Python itself, without a shell around it that would get its signals. Not --kill-on-bad-exit: it would kill the ranks that end a moment after the first one with 85. So a rank that dies
# ends the others after --wait seconds, if they have not noticed by themselves.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} PYTHONUNBUFFERED=1
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SRUN_CPUS_PER_TASK}
code=0
srun --kill-on-bad-exit=0 --wait=60 "$PYTHON" "$@" || code=$?
[ $code = 85 ] || exit $code

if [ "$(newest_checkpoint)" != "$before" ]; then
    rm -f "$idle_starts"
else
    mkdir -p "$folder"
    echo idle >> "$idle_starts"
    if [ "$(wc -l < "$idle_starts")" -ge 2 ]; then
        say "stopped: two starts in a row saved nothing new in $checkpoints; not requeued"
        exit 85
    fi
fi
# an element by its number: the id of one of them is also that of the whole array
job=$SLURM_JOB_ID
[ ! "${SLURM_ARRAY_TASK_ID:-}" ] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
say "stopped; job $job goes back to the queue"
scontrol requeue "$job" || say "SLURM does not requeue job $job: submit it again to continue"
exit 85
