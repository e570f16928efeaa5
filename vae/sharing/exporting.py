"""A finished run -> files of its encoder, decoder and prior, each compared with PyTorch before any of them is there."""

import contextlib
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vae.bars import following
from vae.data import randomness
from vae.errors import Argument, ArgumentError, InputError, JobError
from vae.evaluation import evaluating, images_of, labels_for
from vae.files import PARTIAL, sync
from vae.model import VAE
from vae.run.checkpoint import WEIGHTS, sha256_of
from vae.run.contents import EXPORT, MANIFEST, MODEL
from vae.run.finished import Loader, Opened
from vae.run.versions import versions
from vae.sharing.formats import FORMATS, Function, exported
from vae.sharing.programs import Arrays, Decoder, Encoder, Port, Prior, Program, called, is_standard

TOLERANCE = 1e-5  # of a number, or where it is above 1 a share of it
TIED = 0.01  # share of the examples whose choice between two codes, classes or components may be left to rounding
BATCHES = (1, 2)  # sizes of the first batches of a check, then CHUNK: none has the size of the example
CHUNK = 250
PROGRAMS = {"encoder": Encoder, "decoder": Decoder, "prior": Prior}


@dataclass(frozen=True)
class Exported:
    """Files of a run's programs.

    Attributes:
        files: the programs, then the manifest.
        differences: the largest difference from PyTorch by name of the file.
        examples: number of images and draws that were compared.
    """

    files: tuple[Path, ...]
    differences: dict[str, float]
    examples: int


def export(
    run: str | Path, *, formats: Sequence[str] = tuple(FORMATS), count: int = 1000, output: Path | None = None
) -> Exported:
    """Write the encoder, the decoder and, where it is not N(0, I), the prior of a finished run, with a manifest.

    Args:
        run: the run's folder.
        formats: names of `FORMATS`.
        count: the first images of the test set, on which each file is compared with PyTorch.
        output: where the files go; None: `export/` in the run's folder.

    Raises:
        InputError: the run, its data or a format cannot be used, a piece cannot be exported, or nothing can be written.
        JobError: a file does not give what PyTorch gives; nothing is written.
    """
    _must_be_installed(formats)
    folder = Path(run)
    opened = Loader().open(folder)
    with evaluating(opened.model), _staged(output or folder / EXPORT) as partial:
        programs = {name: kind(opened.model) for name, kind in PROGRAMS.items() if not _left_out(name, opened.model)}
        inputs = _inputs(opened, programs, count)
        made: dict[str, Any] = {}
        for name, program in following(list(programs.items()), "exporting", "program", delay=1):
            found = _write(folder, partial, name, program, formats)
            made |= {path.name: _described(folder, name, path, program, inputs[name]) for path in found}
        examples = len(inputs["encoder"]["x"])
        text = json.dumps(_manifest(opened, folder, programs, made, examples), indent=1)
        (partial / MANIFEST).write_text(text + "\n", encoding="utf-8")
    files = tuple((output or folder / EXPORT) / name for name in (*made, MANIFEST))
    return Exported(files, {name: facts["largest_difference"] for name, facts in made.items()}, examples)


def _must_be_installed(formats: Sequence[str]) -> None:
    for name in formats:
        if name not in FORMATS:
            raise ArgumentError(
                Argument("formats"), f" {name}: must be among {', '.join(FORMATS)}, with commas between"
            )
        if missing := [package for package in FORMATS[name].packages if find_spec(package) is None]:
            problem = f"needs packages that are not installed: pip install {' '.join(missing)}"
            others = [other for other in FORMATS if not FORMATS[other].packages]
            raise ArgumentError(
                Argument("formats"), f" {name}: {problem} (the extra `export` has them); or take {others[0]} alone"
            )


def _left_out(name: str, model: VAE) -> bool:
    return name == "prior" and is_standard(model)


def _inputs(opened: Opened, programs: dict[str, Program], count: int) -> dict[str, Arrays]:
    """Return the inputs of each program: test images, their codes, and noise, with labels where they are inputs."""
    model, rows = opened.model, slice(0, count)
    x, labels = images_of(model, opened.data.test, rows).float(), labels_for(model, opened.data.test, rows)
    draw = partial(randomness.normal, len(x), seed=0)
    known = {"x": x, "noise": draw(model.noise_dim, stream="export/encoder").float()}
    known |= {} if labels is None else {"labels": labels}
    of_encoder = _pick(programs["encoder"], known)
    found = _in_batches(partial(_call, programs["encoder"]), of_encoder)
    known |= {"z": found.get("z", found.get("mean", x))} | {name: found[name] for name in found if name != "z"}
    of_draws = known | {"noise": draw(model.draw_dim, stream="export/prior").float()}
    others = {name: _pick(program, of_draws) for name, program in programs.items() if name != "encoder"}
    return {"encoder": of_encoder} | others


def _pick(program: Program, known: Arrays) -> Arrays:
    return {name: known[name] for name in program.inputs}


def _call(program: Program, inputs: Arrays) -> Arrays:
    return program(**called(inputs))


def _in_batches(function: Function, inputs: Arrays) -> Arrays:
    """Return the outputs for all examples, which the function is given in batches of several sizes."""
    total = len(next(iter(inputs.values())))
    ends = [*BATCHES, *[CHUNK] * -(-total // CHUNK)]
    outputs: list[Arrays] = []
    start = 0
    for size in ends:
        if start < total:
            outputs.append(function({name: value[start : start + size] for name, value in inputs.items()}))
        start += size
    return {name: torch.cat([each[name] for each in outputs]) for name in outputs[0]}


def _write(run: Path, folder: Path, name: str, program: Program, formats: Sequence[str]) -> list[Path]:
    """Write one program in each format; raises `InputError` where torch cannot."""
    paths = [folder / f"{name}.{kind}" for kind in FORMATS if kind in formats]
    kind = "torch.export"
    try:
        found = exported(program)
        for path in paths:
            kind = path.suffix[1:]
            FORMATS[kind].save(found, program, path)
    except OSError:
        raise
    except Exception as error:  # whatever the tracing of a piece may raise
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise InputError(f"{run}: its {name} cannot be exported ({kind}): {type(error).__name__}: {reason}") from error
    return paths


def _described(run: Path, name: str, path: Path, program: Program, inputs: Arrays) -> dict[str, Any]:
    """Return what the manifest says of a file, which is read again and compared with PyTorch."""
    function = FORMATS[path.suffix[1:]].load(path, program)
    difference, tied = _compare(f"{run}: {path.name}", program, function, inputs)
    size = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    return {"program": name, "largest_difference": difference, "decided_by_rounding": tied, **size}


def _compare(name: str, program: Program, function: Function, inputs: Arrays) -> tuple[float, int]:
    """Return the largest difference, and the number of examples of which rounding decides; raises `JobError`."""
    wanted, found = _in_batches(partial(_call, program), inputs), _in_batches(function, inputs)
    assert wanted.keys() == found.keys()
    by_output = {key: _differences(wanted[key], found[key]) for key in wanted}
    worst = torch.stack(list(by_output.values())).amax(0)
    wrong = ~(worst <= TOLERANCE)  # also where it is not a number
    if wrong.any():
        given, right, got = ({key: value[wrong] for key, value in a.items()} for a in (inputs, wanted, found))
        tied = program.tied(given, right, got, TOLERANCE)
        if not tied.all() or len(tied) > TIED * len(worst):
            which = max(by_output, key=lambda key: by_output[key].nan_to_num(nan=torch.inf).max().item())
            size = by_output[which].max().item()
            by = f" (they differ by {size:.1e}, more than {TOLERANCE:g})" if math.isfinite(size) else ""
            raise JobError(f"{name}: {which}: not what PyTorch gives{by}; not written")
    return worst[~wrong].max().item(), int(wrong.sum())


def _differences(wanted: Tensor, found: Tensor) -> Tensor:
    """Return the largest difference in each example (B,), as a share of numbers above 1; of whole numbers 0 or inf."""
    assert wanted.shape == found.shape
    assert wanted.dtype == found.dtype
    if not wanted.is_floating_point():
        return torch.where((wanted != found).reshape(len(wanted), -1).any(-1), torch.inf, 0.0)
    difference = (wanted.double() - found.double()).abs() / wanted.double().abs().clamp(min=1)
    return difference.reshape(len(wanted), -1).amax(-1)


def _manifest(
    opened: Opened, run: Path, programs: dict[str, Program], made: dict[str, Any], examples: int
) -> dict[str, Any]:
    model, labelled = opened.model, any("labels" in (p.inputs | p.outputs) for p in programs.values())
    described = {
        name: {"inputs": _ports(program.inputs), "outputs": _ports(program.outputs)}
        for name, program in programs.items()
    }
    names = opened.data.class_names if labelled else None
    checked = {"examples": examples, "split": "test", "tolerance": TOLERANCE, "batch_sizes": [*BATCHES, CHUNK]}
    return {
        "sampling": "decoder(z), z ~ N(0, I)" if is_standard(model) else "decoder(prior(noise))",
        "programs": described,
        "files": made,
        "check": checked,
        **({"class_names": list(names)} if names else {}),
        "weights_sha256": sha256_of(run / MODEL / WEIGHTS),
        "versions": {"vae": versions()["vae"], "torch": torch.__version__},
    }


def _ports(ports: dict[str, Port]) -> list[dict[str, Any]]:
    return [
        {"name": name, "shape": ["batch", *port.shape], "dtype": str(port.dtype).removeprefix("torch."),
         "meaning": port.meaning}
        for name, port in ports.items()
    ]  # fmt: skip


@contextlib.contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """Yield a folder for files that are moved into `folder` together, the manifest last; else nothing is left of them.

    Files of an earlier export that are not written again are removed, others in the folder stay.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    partial = folder / f"{PARTIAL}export"
    try:
        shutil.rmtree(partial, ignore_errors=True)  # left by a crash
        partial.mkdir(parents=True)
        yield partial
        for path in partial.iterdir():
            sync(path)
        ours = {f"{name}.{kind}" for name in PROGRAMS for kind in FORMATS}
        for name in (MANIFEST, *sorted(ours - {path.name for path in partial.iterdir()})):
            (folder / name).unlink(missing_ok=True)
        for path in sorted(partial.iterdir(), key=lambda path: path.name == MANIFEST):
            path.replace(folder / path.name)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        for path in missing:
            with contextlib.suppress(OSError):  # it holds the files
                path.rmdir()
