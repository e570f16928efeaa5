"""Contents of a run's folder: the names of its files, and their readers. Imports no torch."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vae.errors import InputError
from vae.files import expanded

if TYPE_CHECKING:
    from vae.config import Config

RUNS = Path("runs")  # where run folders are, unless run.dir says otherwise
CONFIG, METRICS, SUMMARY, STARTS = "config.yaml", "metrics.jsonl", "summary.json", "starts.jsonl"
LATENTS = "latents.json"  # kept, to be measured only once
EVALUATION = "evaluation.json"  # kept by `python -m vae evaluate`
UNFINISHED = ".evaluating"  # estimates of an evaluation that is not complete
QUALITY = "quality.json"  # kept by `python -m vae quality`
DISENTANGLEMENT = "disentanglement.json"  # kept by `python -m vae disentangle`
CHECKPOINTS, FIGURES, MODEL, TENSORBOARD = "checkpoints", "figures", "model", "tensorboard"
PLUGINS, PLUGINS_FILE = "plugins", "plugins.json"  # copies of the plugins that a run needs, and which these are
USES = "uses"  # pictures and files of the commands that use a run
TRACKERS = "trackers"  # what a run remembers of its trackers, to continue them
EXPORT, MANIFEST = "export", "manifest.json"  # programs of `python -m vae export`, and what is said of them
LOCK, LOGS = ".lock", "logs"
HINT = "give a folder that train_ddp.py wrote, e.g. runs/mnist"
NUMBERS = {  # what a row of each split must hold
    "train": ("epoch", "loss", "reconstruction", "kl", "beta", "grad_norm"),
    "test": ("epoch", "loss", "reconstruction", "kl"),
    "val": ("epoch", "loss", "reconstruction", "kl"),
    "test_raw": ("epoch", "loss", "reconstruction", "kl"),  # with the raw weights, where those of `test` are averages
    "val_raw": ("epoch", "loss", "reconstruction", "kl"),
}


def named_folder(config: "Config") -> Path | None:
    """Return the folder that a configuration names, `run.dir` or `runs/<run.name>`; None: it names none."""
    if config.run.dir:
        return expanded(config.run.dir)
    return RUNS / config.run.name if config.run.name else None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics.jsonl; a last line that a crash cut short is left out.

    Raises:
        InputError: there is no such file, or a line is not a metrics row.
    """
    must_exist(path, f"{path.parent}: not a run folder: it holds no {path.name}; {HINT}")
    *lines, rest = path.read_text(encoding="utf-8", errors="replace").split("\n")
    if _is_json(rest):
        lines.append(rest)
    return [_parse_row(line, f"{path} line {number}") for number, line in enumerate(lines, start=1)]


def last_row(path: Path, split: str | None = None) -> dict[str, Any] | None:
    """Return the newest whole row of a metrics.jsonl (of one `split`: train, test, val); None: there is none."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return None
    rows = (json.loads(line) for line in reversed(lines) if _is_json(line))
    return next((row for row in rows if split in (None, row.get("split"))), None)


def read_summary(path: Path) -> dict[str, Any] | None:
    """Return the contents of a summary.json, or None if there is none: then the run is not finished.

    Raises:
        InputError: it is not valid JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        raise InputError(f"{path}: not valid JSON; delete it to have the end of the run repeated") from None


def stopped_early(summary: dict[str, Any], patience: int) -> bool:
    """Return true for a finished run that ended early and, with this patience, would end there again."""
    stop = summary.get("stopped_early")
    return bool(stop and patience and stop["epoch"] - stop["lowest_epoch"] >= patience)


def logs_of(folder: Path) -> Path:
    """Return the folder for a sweep's own files on the run in `folder`, beside the folders of the sweep's members."""
    return folder.parent / LOGS


def failure_of(folder: Path) -> dict[str, Any] | None:
    """Return a sweep's note of a run's failure (`exit_code`, `problem`); None: there is no note, or a damaged one."""
    try:
        noted = json.loads(failure_file(folder).read_text())
    except (OSError, ValueError):
        return None
    return noted if isinstance(noted, dict) and isinstance(noted.get("problem"), str) else None


def failure_file(folder: Path) -> Path:
    """Return the file that notes the failure of the run in `folder`."""
    return logs_of(folder) / f"{folder.name}.failed.json"


def must_hold_a_run(folder: Path) -> None:
    """Raise `InputError` for a folder that is no run's."""
    must_exist(folder / CONFIG, f"{folder}: not a run folder: it holds no {CONFIG}; {HINT}")


def must_exist(path: Path, problem: str) -> None:
    """Raise `InputError(problem)` if there is no such file."""
    if not path.is_file():
        raise InputError(problem)


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _parse_row(line: str, where: str) -> dict[str, Any]:
    """Return one row of metrics; an `InputError` begins with `where`, the file and line."""
    row = json.loads(line) if _is_json(line) else None
    if not isinstance(row, dict) or row.get("split") not in NUMBERS:
        raise InputError(f"{where}: must be a JSON object with split {', '.join(NUMBERS)}; restore or remove the line")
    for key in NUMBERS[row["split"]]:
        if not isinstance(row.get(key), (int, float)):
            raise InputError(f"{where}: {key} = {row.get(key)!r}: must be a number; restore or remove the line")
    return row
