"""Run folders -> report.html and report.md: reads everything first, then writes."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vae.config import to_yaml
from vae.errors import InputError
from vae.evaluation.latents_file import measure
from vae.evaluation.results_file import log_likelihoods
from vae.files import write_text
from vae.report import comparison
from vae.report.explorer import obstacle, pack, packed_bytes
from vae.report.gallery import of_figures, of_run
from vae.report.page import Group, Live, Page
from vae.report.pictures import draw_figures
from vae.report.table import progress, result_tables
from vae.run.contents import CONFIG, RUNS
from vae.run.finished import Loader, has_weights
from vae.run.settings import MISSING, Run, Setting, compare, find, read, seconds, whole

HTML, MARKDOWN = "report.html", "report.md"
EXPLORER_BYTES = 3_000_000  # of decoders in one page; the first one is taken in any case


@dataclass(frozen=True)
class Report:
    """What a report is about.

    Attributes:
        paths: as they were given.
        settings: all their runs.
        loader: opens finished runs.
    """

    paths: Sequence[Path]
    settings: Sequence[Setting]
    loader: Loader = field(default_factory=Loader)

    @property
    def runs(self) -> list[Run]:
        """All runs, setting after setting."""
        return [run for setting in self.settings for run in setting.runs]

    @property
    def finished(self) -> list[Run]:
        """The runs that have a summary."""
        return [run for run in self.runs if run.summary is not None]

    def name(self, run: Run) -> str:
        """Return a run's setting and seed, or its folder's name where that says more."""
        setting = next(setting for setting in self.settings if run in setting.runs)
        if len(self.runs) == 1 or (not setting.varied and len(setting.runs) == 1):
            return run.folder.resolve().name
        return ", ".join([f"{setting.label}"] * bool(setting.varied) + [f"seed {run.seed}"])


def write_report(paths: Sequence[Path], output: Path | None = None) -> list[Path]:
    """Write report.html and report.md about runs and sweeps, and draw the figures of finished runs among `paths` again.

    Args:
        paths: folders of runs, or of sweeps: folders that hold those of their members.
        output: the folder to write to; None: the one that `paths` names, or of several `runs/report`.

    Returns:
        The files written: the figures, then report.html and report.md.

    Raises:
        InputError: a path is no run and holds none, a file is damaged, a finished run's data are missing, or a file
            cannot be written. What is wrong with what is read is found before anything is written.
    """
    report = Report(paths, compare([read(folder) for folder in find(paths)]))
    folder = output or (paths[0] if len(paths) == 1 else RUNS / "report")
    for run in filter(_complete, report.runs):
        report.loader.open(run.folder)  # what is damaged is found before anything is written
    active = {run.folder: measure(run.folder, report.loader).active for run in report.finished if _complete(run)}
    explorers, notes = _explorers(report)
    compared = of_figures(comparison.draw(report.settings, report.loader)) if len(report.runs) > 1 else []
    named = {path.resolve() for path in paths}
    drawn = [run for run in report.runs if run.folder.resolve() in named and _complete(run)]
    written = [path for run in drawn for path in _draw(report, run)]
    groups = [Group("", "All settings, side by side.", compared)] if compared else []
    page = Page(
        title=_title(report),
        summary=_summary(report),
        tables=result_tables(report.settings, active, _weighted(report), alone=_title(report)),
        unfinished=[_unfinished(report, run) for run in report.runs if run.summary is None],
        groups=groups + _run_groups(report, latent_only=bool(compared)),
        explorers=explorers,
        explorer_notes=notes,
        members=[_member(run) for run in report.runs],
        settings=to_yaml(report.runs[0].config),
        settings_note=_settings_note(report),
        versions=_versions(report),
        commands=_commands(report, folder, output),
    )
    return [*written, *_write(folder, {HTML: page.to_html(), MARKDOWN: page.to_markdown()})]


# --- words ------------------------------------------------------------------------------------------------------------


def _title(report: Report) -> str:
    names = [path.resolve().name for path in report.paths]
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _summary(report: Report) -> str:
    runs, settings, done = report.runs, report.settings, len(report.finished)
    config = runs[0].config
    kinds = {run.config.data.name for run in runs}
    what = f"{_count(len(runs), 'run')} on {' and '.join(Path(kind).name for kind in sorted(kinds))}"
    if len(settings) > 1:
        what += f": {len(settings)} settings, which differ in {_listed(_varied(report))}"
    elif len(runs) == 1:
        beta = config.objective.get("name", "")
        model = config.model
        what = (
            f"A variational autoencoder on {Path(config.data.name).name}: {model.latent_dim} latent dimensions, "
            f"{model.decoder.get('name')} of depth {model.depth} and width {model.hidden_dim}, "
            f"{model.likelihood.get('name')} likelihood, objective {beta}"
        )
    else:
        what += " which differ in their seed alone"
    if len(runs) == 1:
        return f"{what}. {_state(runs[0])}."
    return f"{what}. {f'{done} of {len(runs)}' if done < len(runs) else 'All'} are finished."


def _count(number_of: int, noun: str) -> str:
    return f"{number_of} {noun}" + ("" if number_of == 1 else "s")


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + f" and {words[-1]}" if len(words) > 1 else "".join(words)


def _varied(report: Report) -> list[str]:
    return list(dict.fromkeys(key for setting in report.settings for key in setting.varied))


def _state(run: Run) -> str:
    if run.summary is None:
        return f"Not finished: {progress(run)}"
    return f"Trained for {run.summary.get('epochs', run.epoch):g} epochs in {_time(run)}"


def _time(run: Run) -> str:
    spent = (run.summary or {}).get("train_seconds")
    return seconds(spent) if spent is not None else "an unknown time"


def _unfinished(report: Report, run: Run) -> list[str]:
    def newest(split: str) -> str:
        rows = run.of_split(split)
        return f"{rows[-1]['loss']:.2f}" if rows else MISSING

    return [report.name(run), str(run.seed), progress(run), newest("train"), newest("test")]


def _member(run: Run) -> list[str]:
    summary = run.summary or {}
    state = progress(run) if run.summary is None else f"finished, {_time(run)}"
    words = [summary.get(key) for key in ("world_size", "device", "precision", "engine")]
    machine = "{} × {}, {}, {}".format(*words) if all(words) else MISSING
    parameters = summary.get("parameters")
    return [str(run.folder), str(run.seed), state, machine, whole(parameters) if parameters else MISSING]


def _settings_note(report: Report) -> str:
    first = report.runs[0].folder / CONFIG
    if len(report.runs) == 1:
        return f"As saved in {first}; a key that is not mentioned on the command line has its default."
    differing = _varied(report)
    others = f" and in {_listed(differing)}" if differing else ""
    return f"That of {first}; the others differ in their name and seed{others}."


def _versions(report: Report) -> str:
    found = dict.fromkeys(
        ", ".join(f"{name} {version}" for name, version in run.summary.get("versions", {}).items())
        for run in report.finished
        if run.summary is not None
    )
    return f"Versions: {'; and '.join(filter(None, found))}." if any(found) else "Versions: not recorded yet."


def _commands(report: Report, folder: Path, output: Path | None) -> list[tuple[str, str]]:
    run = report.runs[0]
    again = ["python", "train_ddp.py", "--config", str(run.folder / CONFIG), f"run.dir={run.folder}-again"]
    page = ["python", "-m", "vae", "report", *map(str, report.paths), *(["--output", str(folder)] if output else [])]
    which = "the run" if len(report.runs) == 1 else f"a run, here {report.name(run)},"
    return [
        (f"To train {which} again, from its own configuration:", shlex.join(again)),
        ("To write this page again:", shlex.join(page)),
    ]


# --- pictures and explorers -------------------------------------------------------------------------------------------


def _complete(run: Run) -> bool:
    return has_weights(run.folder)


def _weighted(report: Report) -> dict[Path, dict[int, float]]:
    return {run.folder: log_likelihoods(run.folder, run.seed) for run in report.finished if _complete(run)}


def _draw(report: Report, run: Run) -> list[Path]:
    opened = report.loader.open(run.folder)
    return draw_figures(run.folder, opened.model, opened.data, measure(run.folder, report.loader), run.seed)


def _run_groups(report: Report, *, latent_only: bool) -> list[Group]:
    """Return the pictures of the only run, or of the one that is explored first."""
    run = report.runs[0] if len(report.runs) == 1 else next(iter(candidates(report.settings)), None)
    pictures = of_run(run, latent_only=latent_only) if run else []
    if run is None or not pictures:
        return []
    if len(report.runs) == 1:
        return [
            Group(
                "",
                "Drawn from the run's records and its final weights."
                if run.summary
                else f"As far as the run is: {progress(run)}.",
                pictures,
            )
        ]
    return [
        Group(
            report.name(run),
            f"One run in pictures: {run.folder}, which has the lowest test loss of its kind.",
            pictures,
        )
    ]


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
    return loss if isinstance(loss, (int, float)) and loss == loss else float("inf")


def _explorers(report: Report) -> tuple[list[Live], list[str]]:
    """Return the explorers that a page has room for, and sentences on which they are and on what has none."""
    explorers: list[Live] = []
    notes: dict[str, None] = {}
    space, wanted = EXPLORER_BYTES, candidates(report.settings)
    for run in wanted:
        opened = report.loader.open(run.folder)
        if problem := obstacle(opened.model):
            notes[f"{report.name(run)} cannot be explored: {problem}."] = None
            continue
        size = packed_bytes(opened.model)
        if explorers and size > space:
            continue
        space -= size
        packed = pack(opened, measure(run.folder, report.loader))
        explorers.append(Live(report.name(run), _sentence(report, run), packed))
    if not wanted:
        notes["There is nothing to explore yet: no finished run with its weights (model/) is here."] = None
    elif len(wanted) > len(explorers) + len(notes) and explorers:
        notes[
            "Of the other settings, this page leaves out the weights to stay small; a report of one run has them."
        ] = None
    return explorers, list(notes)


def _sentence(report: Report, run: Run) -> str:
    loss = f"{_loss(run):.2f} nats"
    model = run.config.model
    which = f"{run.folder}, test loss {loss}"
    if len(report.runs) > 1:
        which += ", the best seed of its setting"
    return f"This is {which}: {_count(model.latent_dim, 'latent dimension')}, {model.decoder.get('name')}."


# --- files ------------------------------------------------------------------------------------------------------------


def _write(folder: Path, texts: Mapping[str, str]) -> list[Path]:
    written = []
    for name, text in texts.items():
        path = folder / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_text(path, text)
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror}") from None
        written.append(path)
    return written
