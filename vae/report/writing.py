"""Run folders -> report.html and report.md: reads everything first, then writes."""

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from vae import plugins
from vae.bars import following
from vae.config import to_yaml
from vae.evaluation.latents_file import measure
from vae.evaluation.results_file import log_likelihoods
from vae.report import comparison
from vae.report.explorer import obstacle, pack, packed_bytes
from vae.report.gallery import of_figures, of_run
from vae.report.page import Live, Page, Pictured, Report
from vae.report.pictures import draw_figures
from vae.report.rendering import sentence
from vae.report.table import result_tables
from vae.run.contents import CONFIG, RUNS
from vae.run.finished import has_weights
from vae.run.outputs import save_text
from vae.run.settings import MISSING, Run, Setting, compare, find, read, whole

HTML, MARKDOWN = "report.html", "report.md"
EXPLORER_BYTES = 3_000_000  # of decoders in one page; the first one is taken in any case


def write_report(paths: Sequence[Path], output: Path | None = None) -> list[Path]:
    """Write report.html and report.md about runs and sweeps, and draw the figures of finished runs among `paths` again.

    Args:
        paths: folders of runs, or of sweeps: folders that hold those of their members.
        output: the folder to write to; None: the one that `paths` names, or of several `runs/report`.

    Returns:
        The files written: the figures, then report.html and report.md.

    Raises:
        InputError: a path is no run and holds none, a file is damaged, a finished run's data are missing, or a file
            cannot be written. All errors of reading are found before anything is written.
    """
    report = Report(paths, compare([read(folder) for folder in find(paths)]))
    folder = output or (paths[0] if len(paths) == 1 else RUNS / "report")
    for run in filter(_complete, report.runs):
        report.loader.open(run.folder)  # damage is found before anything is written
    tables = result_tables(report.settings, _active(report), _weighted(report), alone=report.title)
    explorers, obstacles, no_room = _explorers(report)
    compared = of_figures(comparison.draw(report.settings, report.loader)) if len(report.runs) > 1 else []
    drawn = _draw_named(report)
    first = report.runs[0]
    page = Page(
        report=report,
        summary=sentence("summary", report=report),
        tables=tables,
        unfinished=[_unfinished(report, run) for run in report.runs if run.summary is None],
        compared=compared,
        pictured=_pictured(report, latent_only=bool(compared)),
        explorers=explorers,
        obstacles=obstacles,
        no_room=no_room,
        members=[_member(run) for run in report.runs],
        config=to_yaml(first.config),
        config_file=first.folder / CONFIG,
        versions=_versions(report.finished),
        train_command=_train_command(first),
        page_command=_page_command(paths, output, report.runs),
    )
    pages = {HTML: page.to_html(), MARKDOWN: page.to_markdown()}
    return [*drawn, *(save_text(folder / name, text) for name, text in pages.items())]


# --- facts of runs ----------------------------------------------------------------------------------------------------


def _complete(run: Run) -> bool:
    return has_weights(run.folder)


def _active(report: Report) -> dict[Path, int]:
    complete = list(filter(_complete, report.finished))
    runs = following(complete, "measuring", "run", delay=1)
    return {run.folder: measure(run.folder, report.loader).active for run in runs}


def _weighted(report: Report) -> dict[Path, Mapping[int, float]]:
    return {run.folder: log_likelihoods(run.folder, run.seed) for run in report.finished if _complete(run)}


def _unfinished(report: Report, run: Run) -> list[str]:
    newest = [f"{rows[-1]['loss']:.2f}" if (rows := run.of_split(split)) else MISSING for split in ("train", "test")]
    return [report.name(run), str(run.seed), sentence("progress", run=run), *newest]


def _member(run: Run) -> list[str]:
    summary = run.summary or {}
    known = all(summary.get(key) for key in ("world_size", "device", "precision", "engine"))
    machine = sentence("machine", summary=summary) if known else MISSING
    parameters = whole(summary["parameters"]) if summary.get("parameters") else MISSING
    return [str(run.folder), str(run.seed), sentence("outcome", run=run), machine, parameters]


def _versions(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Return the environments of finished runs, package -> version, each once."""
    found = dict.fromkeys(tuple((run.summary or {}).get("versions", {}).items()) for run in runs)
    return [dict(packages) for packages in found if packages]


def _train_command(run: Run) -> str:
    return shlex.join(
        ["python", "train_ddp.py", "--config", str(run.folder / CONFIG), *plugins.options([run.config]),
         f"run.dir={run.folder}-again"],
    )  # fmt: skip


def _page_command(paths: Sequence[Path], output: Path | None, runs: Sequence[Run]) -> str:
    options = plugins.options([run.config for run in runs]) + (["--output", str(output)] if output else [])
    return shlex.join(["python", "-m", "vae", "report", *map(str, paths), *options])


# --- pictures and explorers -------------------------------------------------------------------------------------------


def _draw_named(report: Report) -> list[Path]:
    """Draw the figures of the finished runs that were named themselves into their folders; return the files."""
    named = {path.resolve() for path in report.paths}
    written = []
    drawn = [run for run in report.runs if run.folder.resolve() in named and _complete(run)]
    for run in following(drawn, "drawing", "run", delay=1):
        opened = report.loader.open(run.folder)
        measures = measure(run.folder, report.loader)
        written += draw_figures(run.folder, opened.model, opened.data, measures, run.seed)
    return written


def _pictured(report: Report, *, latent_only: bool) -> Pictured | None:
    """Return the only run, or the one that is explored first, if it has pictures."""
    run = report.runs[0] if len(report.runs) == 1 else next(iter(candidates(report.settings)), None)
    pictures = of_run(run, latent_only=latent_only) if run else []
    return Pictured(run, sentence("progress", run=run), pictures) if run and pictures else None


def candidates(settings: Sequence[Setting]) -> list[Run]:
    """Return the runs worth exploring, best first: of each setting its seed with the lowest test loss.

    The best of each number of latent dimensions come first, two dimensions before all others; losses of different
    protocols are not compared.
    """
    best = [
        min(runs, key=_loss) for setting in settings if (runs := [run for run in setting.finished if _complete(run)])
    ]
    first: dict[int, Run] = {}
    for run in best:
        rival = first.setdefault(run.config.model.latent_dim, run)
        if run.protocol == rival.protocol and _loss(run) < _loss(rival):
            first[run.config.model.latent_dim] = run
    leading = sorted(first.values(), key=lambda run: (run.config.model.latent_dim != 2, run.config.model.latent_dim))
    return [*leading, *(run for run in best if run not in leading)]


def _loss(run: Run) -> float:
    loss = (run.summary or {}).get("test", {}).get("loss")
    return loss if isinstance(loss, (int, float)) and loss == loss else math.inf


def _explorers(report: Report) -> tuple[list[Live], dict[str, str], bool]:
    """Return the explorers, the obstacles by name of a run, and True if a run was left out for want of room."""
    explorers: list[Live] = []
    obstacles: dict[str, str] = {}
    space, no_room = EXPLORER_BYTES, False
    for run in candidates(report.settings):
        opened = report.loader.open(run.folder)
        if problem := obstacle(opened.model):
            obstacles[report.name(run)] = problem
            continue
        size = packed_bytes(opened.model)
        if explorers and size > space:
            no_room = True
            continue
        space -= size
        explorers.append(Live(run, _loss(run), pack(opened, measure(run.folder, report.loader))))
    return explorers, obstacles, no_room
