"""The counters of the fake CUDA runtime that this process runs under, and the reports that processes have left.

with counters.between() as seen:
    engine.advance(0, 20)
assert seen.launches == {"graphs": 1}
"""

import ctypes
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Graph:
    """A graph that has been instantiated.

    Attributes:
        nodes: the name of each node: `kernel ...`, `product ...`, `copy ...`, `memset`, `nccl...`.
        collectives: how many of them are collectives.
        replays: how often it was launched.
        alive: whether it has not been destroyed.
    """

    nodes: tuple[str, ...]
    collectives: int
    replays: int
    alive: bool


@dataclass
class Seen:
    """What happened between two points.

    Attributes:
        launches: work that the host put on streams outside of captures, by kind: kernels, products, copies, memsets,
            collectives, graphs (one for each replay), host functions.
        captured: the same, for what was put into graphs.
        names: both together, by name.
        readbacks: calls for which the step waited, by name: those of the main thread and autograd's.
        readbacks_of_other_threads: the same of the other threads, which write checkpoints, say.
        copies: by where from and where to: `pageable to device`.
        violations: rules that were broken.
    """

    launches: dict[str, int] = field(default_factory=dict)
    captured: dict[str, int] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    readbacks: dict[str, int] = field(default_factory=dict)
    readbacks_of_other_threads: dict[str, int] = field(default_factory=dict)
    copies: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    @property
    def launched(self) -> int:
        """How many calls of the host put work on streams."""
        return sum(self.launches.values())

    @property
    def pageable(self) -> dict[str, int]:
        """The copies from or to memory that is not pinned."""
        return {places: count for places, count in self.copies.items() if "pageable" in places}


COUNTERS = ("launches", "captured", "names", "readbacks", "readbacks_of_other_threads", "copies")


def running() -> bool:
    """Return whether this process runs under the fake runtime."""
    return hasattr(ctypes.CDLL(None), "fakecuda_report")


def report() -> dict[str, Any]:
    """Return the report on this process as it stands: what `tests/cuda/fake --report` leaves at the end."""
    return json.loads(_library().fakecuda_report())


def launches() -> dict[str, int]:
    """Return how often the host has put work on streams outside of captures, by kind."""
    return _counts()["launches"]


def readbacks() -> dict[str, int]:
    """Return for which calls the main thread and autograd's have waited, and how often."""
    return _counts()["readbacks"]


def graphs(alive: bool = True) -> list[Graph]:
    """Return the graphs in the order of their instantiation; those that live, or all."""
    return [graph for graph in graphs_of(report()) if graph.alive or not alive]


def violations() -> list[str]:
    """Return the rules that were broken so far, with the line of the project where it was, if known."""
    return violations_of(_counts())


def reset() -> None:
    """Set the counters to zero; graphs and violations stay."""
    _library().fakecuda_reset()


@contextmanager
def between() -> Iterator[Seen]:
    """Count what happens in a block; the answer is complete when the block has ended."""
    before, seen = _counts(), Seen()
    try:
        yield seen
    finally:
        after = _counts()
        for name in COUNTERS:
            more = {key: count - before[name].get(key, 0) for key, count in after[name].items()}
            getattr(seen, name).update({key: count for key, count in more.items() if count})
        seen.violations.extend(violations_of(after)[len(before["violations"]) :])


@contextmanager
def step() -> Iterator[None]:
    """Make it a violation to wait for a device, or to copy from or to pageable memory, in a block."""
    _library().fakecuda_step(1)
    try:
        yield
    finally:
        _library().fakecuda_step(0)


def reports(prefix: Path) -> list[dict[str, Any]]:
    """Return the reports that the processes of a command have left, by rank."""
    left = [json.loads(path.read_text()) for path in prefix.parent.glob(f"{prefix.name}.*.json")]
    return sorted(left, key=lambda one: (one["rank"] or 0, one["pid"]))


def graphs_of(report: dict[str, Any]) -> list[Graph]:
    """Return the graphs of a report."""
    names = report["names_of_nodes"]
    return [
        Graph(tuple(names[node] for node in graph["nodes"]), graph["collectives"], graph["replays"], graph["alive"])
        for graph in report["graphs"]
    ]


def violations_of(report: dict[str, Any]) -> list[str]:
    """Return the violations of a report, one line each."""
    return [" at ".join(filter(None, (one["what"], one["where"]))) for one in report["violations"]]


def _counts() -> dict[str, Any]:
    """Return the report without the graphs, of which there may be many."""
    return json.loads(_library().fakecuda_counters())


@cache
def _library() -> Any:
    library = ctypes.CDLL(None)
    assert running(), "not under the fake CUDA runtime: start it with tests/cuda/fake"
    library.fakecuda_report.restype = library.fakecuda_counters.restype = ctypes.c_char_p
    return library
