"""Checks of a SLURM job: a signal before the time limit, the requeue, the time left."""

import re
import shlex
import subprocess
from collections.abc import Mapping

from vae.distributed.signals import SIGNALS
from vae.doctor.findings import Context, Finding, ok, warning

SECONDS_TO_ANSWER = 10
SECONDS_TO_SAVE = 60  # a signal that comes later may be too late
SLACK = 60  # SLURM looks at time limits every 30 s and sends the signal up to 30 s early
SIGNAL_LINE = "#SBATCH --signal=USR1@120"


def check_slurm(context: Context) -> Finding | None:
    """Check the job's time left, and that it may be requeued (main process only)."""
    if context.rank:
        return None
    job = context.environment.get("SLURM_JOB_ID")
    if job is None:
        return ok("not in an allocation")
    shown = _ask("scontrol", "show", "job", "-o", job)
    if shown is None:
        return warning(f"job {job}: scontrol does not say more", "see `scontrol show job` on a login node")
    return judge_job(parse(shown))


def check_signal(context: Context) -> Finding | None:
    """Check that the job gets a signal before its time limit (main process only).

    `scontrol show job` does not show the setting (22.05). The batch script does, unless the command line of sbatch had
    another one.
    """
    job = context.environment.get("SLURM_JOB_ID")
    if context.rank or job is None:
        return None
    shown = parse(_ask("scontrol", "show", "job", "-o", job) or "")
    if shown.get("BatchFlag") == "0":
        return None
    script = _ask("scontrol", "write", "batch_script", job, "-")
    return judge_signal(script, context.environment.get("SBATCH_SIGNAL"), seconds(shown.get("TimeLimit", "")))


def check_steps(context: Context) -> Finding | None:
    """Check for settings of srun that get in the way (main process only)."""
    environment = context.environment
    if context.rank or "SLURM_JOB_ID" not in environment:
        return None
    if environment.get("SLURM_GPUS_PER_TASK") and environment.get("SLURM_NTASKS_PER_NODE", "1") != "1":
        advice = "use --gpus-per-node, so that the GPUs of a node reach each other directly"
        return warning("--gpus-per-task: each task sees its own GPU only", advice)
    if environment.get("SLURM_KILL_BAD_EXIT", "0") != "0":
        advice = "unset SLURM_KILL_BAD_EXIT: a rank that has saved would end the others while they leave"
        return warning("srun kills the step at the first exit code that is not 0", advice)
    return None


def parse(shown: str) -> dict[str, str]:
    """Return the fields of `scontrol show job -o`; a value ends where the next `Name=` begins."""
    return dict(re.findall(r"(\S+?)=(.*?)(?=\s+[\w:/.~&]+=|\s*$)", shown.strip()))


def judge_job(job: Mapping[str, str]) -> Finding:
    """Return the finding for the fields of a job."""
    limit, used = seconds(job.get("TimeLimit", "")), seconds(job.get("RunTime", ""))
    left = "no time limit" if limit is None else f"{_clock(limit - (used or 0))} left of {_clock(limit)}"
    text = f"job {job.get('JobId', '?')} on {job.get('NodeList', '?')}: {left}"
    if job.get("BatchFlag") == "0":
        advice = "for a run that outlives it: sbatch launch/slurm/train.sbatch"
        return warning(f"{text}; interactive, so no signal before the end and no requeue", advice)
    if job.get("Requeue") != "1":
        return warning(
            f"{text}; not requeued", "to have it continue by itself, put `#SBATCH --requeue` into its script"
        )
    return ok(f"{text}, may be requeued")


def judge_signal(script: str | None, exported: str | None, limit: int | None) -> Finding:
    """Return the finding for the signal setting of a job.

    Args:
        script: the batch script; None: SLURM does not show it.
        exported: SBATCH_SIGNAL, if the job's environment has it.
        limit: the job's time limit, seconds; None: no limit.
    """
    if limit is None:
        return ok("no time limit, so no signal before it")
    setting = exported or batch_option(script or "", "signal")
    if setting is None:
        unseen = "the batch script cannot be read" if script is None else "not in the batch script"
        text = f"no --signal seen ({unseen}; the command line of sbatch is not shown)"
        return warning(text, f"unless you gave it there, put `{SIGNAL_LINE}` into the script")
    match = re.fullmatch(r"(?:([RB]{1,2}):)?(?:SIG)?(\w+)(?:@(\d+))?", setting)
    if match is None:
        return warning(f"--signal={setting}: not understood", f"put `{SIGNAL_LINE}` into the script")
    flags, name, ahead = match[1] or "", match[2], int(match[3] or 60)
    text = f"--signal={setting}: {name} about {ahead} s before the time limit"
    if "B" in flags:
        return warning(f"{text}, to the batch shell only", f"without B:, so that the tasks get it: `{SIGNAL_LINE}`")
    if name not in {word for known in SIGNALS for word in (known.name[3:], str(known.value))}:
        return warning(f"{text}, which the job does not obey", f"put `{SIGNAL_LINE}` into the script")
    if ahead < SECONDS_TO_SAVE:
        return warning(text, f"leave time to finish a step and save: `{SIGNAL_LINE}`")
    if ahead + SLACK >= limit:
        return warning(f"{text} of {_clock(limit)}: at once, or nearly", "ask for more time (--time)")
    return ok(text)


def batch_option(script: str, name: str) -> str | None:
    """Return the value of an option in a batch script's #SBATCH lines, the last one if there are several."""
    value = None
    for line in script.splitlines():
        if line.strip() and not line.startswith("#"):
            break  # sbatch reads no further than the first command
        if line.startswith("#SBATCH"):
            words = shlex.split(line.removeprefix("#SBATCH"), comments=True)
            for word, following in zip(words, [*words[1:], ""], strict=True):
                key, equals, given = word.partition("=")
                if key == f"--{name}":
                    value = given if equals else following
    return value


def seconds(text: str) -> int | None:
    """Return a duration of SLURM's, `[days-]hours:minutes:seconds`, in seconds; None: unlimited or not known."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text)
    if match is None:
        return None
    days, hours, minutes, rest = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest


def _clock(duration: int) -> str:
    minutes, rest = divmod(max(0, duration), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _ask(*command: str) -> str | None:
    """Return the output of a SLURM command, or None if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_TO_ANSWER, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


CHECKS = {"slurm": check_slurm, "signal": check_signal, "srun": check_steps}
