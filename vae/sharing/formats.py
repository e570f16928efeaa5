"""Formats of exported programs: ONNX, which many runtimes read, and torch.export's own."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.export import Dim, ExportedProgram

from vae.sharing.programs import Arrays, Program, called

EXAMPLES = 3  # in the batch of an export, not 0 or 1, which torch.export takes for fixed sizes
Function = Callable[[Arrays], Arrays]


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        packages: that are needed beside torch, as they are installed and imported.
        save: writes an exported program to a path.
        load: the path of a program, and the program itself -> the function in the file, inputs -> outputs.
    """

    packages: tuple[str, ...]
    save: Callable[[ExportedProgram, Program, Path], None]
    load: Callable[[Path, Program], Function]


def exported(program: Program) -> ExportedProgram:
    """Return a program as torch.export traces it, for batches of any size; no path of this machine is in it."""
    first, *others = called(program.zeros(EXAMPLES)).items()
    with torch.no_grad():
        found = torch.export.export(program, (first[1],), dict(others), dynamic_shapes=_batches(program))
    for module in found.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
    return found


def _batches(program: Program) -> dict[str, dict[int, Dim]]:
    batch = Dim("batch")
    return {name: {0: batch} for name in called(program.zeros(1))}


def _save_pt2(found: ExportedProgram, program: Program, path: Path) -> None:
    torch.export.save(found, path)


def _load_pt2(path: Path, program: Program) -> Function:
    function = torch.export.load(path).module()

    def run(inputs: Arrays) -> Arrays:
        first, *others = inputs
        return function(inputs[first], **{name: inputs[name] for name in others})

    return run


def _save_onnx(found: ExportedProgram, program: Program, path: Path) -> None:
    with _quiet():
        made = torch.onnx.export(
            found,
            dynamo=True,
            verbose=False,
            dynamic_shapes=_batches(program),
            input_names=list(program.inputs),
            output_names=list(program.outputs),
        )
    assert made is not None
    made.save(path, external_data=False)


def _load_onnx(path: Path, program: Program) -> Function:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(inputs: Arrays) -> Arrays:
        found = session.run(list(program.outputs), {name: value.numpy() for name, value in inputs.items()})
        return {name: torch.from_numpy(array) for name, array in zip(program.outputs, found, strict=True)}

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out two remarks of the exporter: on the one name of all batches, and on constants it does not fold."""
    optimizer = logging.getLogger("onnxscript.optimizer")
    level = optimizer.level
    optimizer.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*The axis name: batch will not be used")
            yield
    finally:
        optimizer.setLevel(level)


FORMATS: dict[str, Format] = {
    "onnx": Format(("onnx", "onnxscript", "onnxruntime"), _save_onnx, _load_onnx),
    "pt2": Format((), _save_pt2, _load_pt2),
}
