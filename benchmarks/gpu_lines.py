"""The lines of `gpu_check.py`'s table: what each part measures, what is promised of it, and what was predicted.

The predictions were made before anything had run on a GPU, for an H200 or the like: from the launches and graph nodes
that were counted at commit 18a3e8e under a fake CUDA runtime, where torch's own code runs and kernels do not. One of
them that proves wrong is a reason to look, not to change it here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from targets import Target, targets_of

SMALLEST, BATCHES = 128, (128, 1024, 8192)
EAGER, UNCOMPILED, COMPILED = "eager", "graph uncompiled", "graph compiled"
ENGINES = (COMPILED, UNCOMPILED, EAGER)
NODES = "nodes x 1.5 to 2 us, products 3.5 to 4.5 us"  # of a chain of small kernels, each of which waits for the last
Values = Mapping[str, Sequence[float]]  # by a line's key


@dataclass(frozen=True)
class Line:
    """One number that a part measures.

    Attributes:
        part: which one.
        key: its name for programs, within the part.
        what: its name for people, with the unit.
        bound: what is promised of its median; None: nothing.
        at_least: whether the bound is the least, else it is the most.
        law: whether results, not only speed, depend on the promise.
        predicted: the lowest and the highest, each with the bound's own unit; None: nothing was.
        origin: of the prediction.
    """

    part: str
    key: str
    what: str
    bound: float | None = None
    at_least: bool = False
    law: bool = False
    predicted: tuple[float, float] | None = None
    origin: str = ""

    def met(self, values: Sequence[float]) -> bool | None:
        """Return whether the promise is kept; None: nothing is promised, or nothing was measured."""
        return None if self.bound is None else Target(self.what, self.at_least, self.bound, values).met

    def foreseen(self, values: Sequence[float]) -> bool | None:
        """Return whether the prediction was right; None: there is none, or nothing was measured."""
        if self.predicted is None or not values:
            return None
        low, high = self.predicted
        return low <= median(values) <= high


def step_key(precision: str, batch_size: int, engine: str) -> str:
    """Return the key of a step's line in the parts `steps` and `nodes`."""
    return f"{precision} {batch_size} {engine}"


def step_cases() -> list[tuple[str, int, str]]:
    """Return precision, batch size and engine of each step that is timed, in order of value."""
    cases = [("bf16", size, engine) for size in (128, 8192) for engine in ENGINES]
    cases += [("fp32", size, engine) for size in (128, 8192) for engine in ENGINES]
    cases += [(precision, 1024, engine) for precision in ("bf16", "fp32") for engine in ENGINES]
    return [*cases, *(("fp64", 128, engine) for engine in ENGINES)]


def lines() -> list[Line]:
    """Return every line, part by part."""
    return [*_laws(), *_job(), *_scaling(), *_steps(), *_nodes()]


def _laws() -> list[Line]:
    after = "largest difference of a weight after 40 steps"
    exact = {"bound": 1e-9, "law": True, "predicted": (0.0, 1e-9), "origin": "rounding of float64, amplified by AdamW"}
    same = {"bound": 0.0, "law": True}
    return [
        Line("tests", "failed", "gpu tests that fail", 0.0, law=True, predicted=(0.0, 0.0), origin="CPU, fake CUDA"),
        Line("tests", "passed", "gpu tests that pass"),
        Line("tests", "skipped", "gpu tests that are skipped"),
        Line("exactness", "eager", f"fp64, eager: GPU and CPU, {after}", **exact),
        Line("exactness", "graph", f"fp64, graph: GPU and CPU, {after}", **exact),
        Line("two", "fp64", f"two ranks on the card and one, fp64: {after}", 1e-12, law=True),
        Line("two", "fp32", f"two ranks on the card and one, fp32: {after}", 1e-5, law=True),
        Line("two", "bf16", f"two ranks on the card and one, bf16: {after}"),
        *(Line("two", f"{p} ranks", f"the two ranks, {p}: {after}", **same) for p in ("fp64", "fp32", "bf16")),
        Line("tf32", "job", "relative error of a float32 convolution in a job", 1e-6, law=True),
        Line("tf32", "product", "relative error of a float32 product in a job", 1e-6, law=True),
        Line("tf32", "gradient", "convolution: gradients of two passes, largest difference", **same),
        Line(
            "tf32", "allowed", "relative error of a convolution where TF32 is allowed",
            predicted=(1e-4, 1e-3), origin="10 bits of mantissa",
        ),
    ]  # fmt: skip


def _job() -> list[Line]:
    predicted = {
        "run": ((3.3, 5.5), "23,450 steps x 190 us + 50 x 20 ms; with a faster step and evaluation 3.3"),
        "images": ((0.55e6, 1.2e6), f"84 nodes: 150 to 230 us, 53 nodes: 105 to 150 us a step ({NODES})"),
        "images 8192": ((14e6, 20e6), "a step of 300 to 450 us, loading overlapped"),
    }
    promised = [
        Line("job", t.key, t.what, t.bound, t.at_least, False, *predicted.get(t.key, (None, "")))
        for t in targets_of("cuda", [], "graph")
    ]
    return [
        *promised,
        Line("job", "evaluation", "ms of evaluation an epoch", None, False, False, (2.0, 20.0), "917 launches: 20 ms; kept on the device, in chunks of 10,000: 2 ms"),
        Line("job", "evaluation share", "evaluation, % of training"),
        Line("job", "logging", "logging, % of training", None, False, False, (1.6, 2.5), "0.33 ms a line of 100 steps"),
        Line("job", "checkpoints", "waiting for checkpoints, % of training", 1.0, False, False, (0.0, 1.0), "pinned copies, one in 30 s; one each epoch: 30 to 50 %"),
        Line("job", "start-up", "seconds from the command to the first step, compiling included"),
    ]  # fmt: skip


def _scaling() -> list[Line]:
    return [
        Line("scaling", "weak 8192", "all cards, batch 8,192 each: efficiency, %", None, True, False, (85.0, 95.0), "4.3 MB over NVLink: 30 us, two graphs more: 5 us"),
        Line("scaling", "strong 8192", "all cards, global batch 8,192: times as fast as one card"),
        Line("scaling", "strong 128", "all cards, global batch 128: times as fast as one card", None, True, False, (0.0, 1.0), "an exchange of 30 us beside latencies that stay"),
        Line("scaling", "all-reduce", "an all-reduce of all gradients alone, us", None, True, False, (25.0, 60.0), "4.3 MB over NVLink"),
    ]  # fmt: skip


def _steps() -> list[Line]:
    predicted = {
        step_key("bf16", 128, UNCOMPILED): ((330.0, 400.0), f"170 nodes ({NODES})"),
        step_key("bf16", 128, COMPILED): ((105.0, 230.0), f"84 nodes: 150 to 230, 53: 105 to 150 ({NODES})"),
        step_key("bf16", 128, EAGER): ((600.0, 1300.0), "163 launches; 1.3 ms of host time on a slow host"),
        step_key("bf16", 8192, COMPILED): ((300.0, 450.0), "90 us products, 170 us memory, gaps"),
    }
    found = []
    for precision, size, engine in step_cases():
        key = step_key(precision, size, engine)
        what = f"{precision}, batch {size:,}, {engine}: us a step"
        found.append(Line("steps", key, what, None, False, False, *predicted.get(key, (None, ""))))
        found.append(Line("steps", f"{key} loading", f"{what}, loading epochs included"))
    return found


def _nodes() -> list[Line]:
    counts = {UNCOMPILED: ((150.0, 175.0), "170 counted"), COMPILED: ((45.0, 55.0), "53 counted, the budget is 55")}
    found = []
    for engine, (predicted, origin) in counts.items():
        bound = predicted[1] if engine == COMPILED else None
        what = f"bf16, batch 128, {engine}"
        found += [
            Line("nodes", f"{engine} nodes", f"{what}: nodes a step", bound, False, False, predicted, origin),
            Line("nodes", f"{engine} kernels", f"{what}: us of kernels a step"),
            Line("nodes", f"{engine} step", f"{what}: us a step"),
            Line("nodes", f"{engine} price", f"{what}: us between two nodes (step less kernels, over nodes)"),
        ]
    return found
