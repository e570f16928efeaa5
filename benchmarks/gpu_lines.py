"""The lines of `gpu_check.py`'s table: what each part measures, what is promised of it, and what was predicted.

The predictions were made before anything had run on a GPU, for one as fast as an H200: from launches and graph nodes as
they were counted under a fake CUDA runtime, where torch's own code runs and kernels do not. A prediction that proves
wrong is a reason to look, not to change it here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from targets import Target, targets_of

EAGER, UNCOMPILED, COMPILED = "eager", "graph uncompiled", "graph compiled"
ENGINES = (COMPILED, UNCOMPILED, EAGER)


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
    """

    part: str
    key: str
    what: str
    bound: float | None = None
    at_least: bool = False
    law: bool = False

    def met(self, values: Sequence[float]) -> bool | None:
        """Return whether the promise is kept; None: nothing is promised, or nothing was measured."""
        return None if self.bound is None else Target(self.what, self.at_least, self.bound, values).met

    @property
    def prediction(self) -> "Prediction | None":
        """What was predicted, if anything was."""
        return PREDICTIONS.get((self.part, self.key))


@dataclass(frozen=True)
class Prediction:
    """The lowest and the highest value that a line was expected to have, and where that came from."""

    low: float
    high: float
    origin: str

    def right(self, values: Sequence[float]) -> bool | None:
        """Return whether the median of some values is within; None: nothing was measured."""
        return self.low <= median(values) <= self.high if values else None


# --- the lines --------------------------------------------------------------------------------------------------------


def lines() -> list[Line]:
    """Return every line, part by part."""
    return [*_laws(), *_job(), *_scaling(), *_steps(), *_nodes()]


def step_key(precision: str, batch_size: int, engine: str) -> str:
    """Return the key of a step's line in the part `steps`."""
    return f"{precision} {batch_size} {engine}"


def step_cases() -> list[tuple[str, int, str]]:
    """Return precision, batch size and engine of each step that is timed, in order of value."""
    sizes = [("bf16", 128), ("bf16", 8192), ("fp32", 128), ("fp32", 8192), ("bf16", 1024), ("fp32", 1024)]
    return [(precision, size, engine) for precision, size in [*sizes, ("fp64", 128)] for engine in ENGINES]


def _laws() -> list[Line]:
    after, precisions = "largest difference of a weight after 40 steps", ("fp64", "fp32", "bf16")
    alike, bounds = "two ranks on the card and one", {"fp64": 1e-12, "fp32": 1e-5}
    return [
        Line("tests", "failed", "gpu tests that fail", 0.0, law=True),
        Line("tests", "passed", "gpu tests that pass"),
        Line("tests", "skipped", "gpu tests that are skipped"),
        *(Line("exactness", e, f"fp64, {e}: GPU and CPU, {after}", 1e-9, law=True) for e in ("eager", "graph")),
        *(Line("two", p, f"{alike}, {p}: {after}", bounds.get(p), law=True) for p in precisions),
        *(Line("two", f"{p} ranks", f"the two ranks, {p}: {after}", 0.0, law=True) for p in precisions),
        Line("tf32", "convolution", "relative error of a float32 convolution in a job", 1e-6, law=True),
        Line("tf32", "product", "relative error of a float32 product in a job", 1e-6, law=True),
        Line("tf32", "gradient", "convolution: gradients of two passes, largest difference", 0.0, law=True),
        Line("tf32", "allowed", "relative error of a convolution where TF32 is allowed"),
    ]


def _job() -> list[Line]:
    promised = [Line("job", t.key, t.what, t.bound, t.at_least) for t in targets_of("cuda", [], "graph")]
    return [
        *promised,
        Line("job", "evaluation", "job: ms of evaluation an epoch"),
        Line("job", "evaluation share", "job: evaluation, % of training"),
        Line("job", "logging", "job: logging, % of training"),
        Line("job", "checkpoints", "job: waiting for checkpoints, % of training", 1.0),
        Line("job", "start-up", "job: seconds from the command to the first step, compiling included"),
    ]


def _scaling() -> list[Line]:
    return [
        Line("scaling", "weak 8192", "all cards, batch 8,192 each: efficiency, %"),
        Line("scaling", "strong 8192", "all cards, global batch 8,192: times as fast as one card"),
        Line("scaling", "strong 128", "all cards, global batch 128: times as fast as one card"),
        Line("scaling", "all-reduce", "all cards: an all-reduce of all gradients alone, us"),
    ]


def _steps() -> list[Line]:
    found = []
    for precision, size, engine in step_cases():
        key, what = step_key(precision, size, engine), f"{precision}, batch {size:,}, {engine}: us a step"
        found += [Line("steps", key, what), Line("steps", f"{key} loading", f"{what}, loading of epochs included")]
    return found


def _nodes() -> list[Line]:
    found = []
    for engine, most in ((COMPILED, 55.0), (UNCOMPILED, None)):
        what = f"bf16, batch 128, {engine}"
        found += [
            Line("nodes", f"{engine} nodes", f"{what}: nodes a step", most),
            Line("nodes", f"{engine} kernels", f"{what}: us of kernels a step"),
            Line("nodes", f"{engine} step", f"{what}: us a step"),
            Line("nodes", f"{engine} price", f"{what}: us between two nodes (step less kernels, over nodes)"),
        ]
    return found


# --- the predictions --------------------------------------------------------------------------------------------------

PRODUCTS = 17  # matrix products of a step of the default net
NODES = {("bf16", COMPILED): 46, ("bf16", UNCOMPILED): 148}  # of a captured step at batch 128


def _chain(precision: str, engine: str) -> Prediction:
    """Return the microseconds of a step that is a chain of small kernels, each of which waits for the last."""
    nodes = NODES[precision, engine]
    rest = nodes - PRODUCTS
    origin = f"{nodes} nodes counted: {PRODUCTS} products of 3.5 to 4.5 us, the others 1.5 to 2"
    return Prediction(3.5 * PRODUCTS + 1.5 * rest, 4.5 * PRODUCTS + 2 * rest, origin)


def _predictions() -> dict[tuple[str, str], Prediction]:
    fast, slow = _chain("bf16", COMPILED), _chain("bf16", UNCOMPILED)
    us = f"{fast.low:.0f} to {fast.high:.0f} us a step"
    return {
        ("exactness", "eager"): Prediction(0, 1e-9, "rounding of float64, amplified by AdamW"),
        ("exactness", "graph"): Prediction(0, 1e-9, "rounding of float64, amplified by AdamW"),
        ("tf32", "allowed"): Prediction(1e-4, 1e-3, "products of 10 bits"),
        ("job", "run"): Prediction(2.2, 4.0, f"23,450 steps, {us}; 50 evaluations of 2 to 20 ms"),
        ("job", "images"): Prediction(0.9e6, 1.35e6, us),
        ("job", "images 8192"): Prediction(14e6, 20e6, "90 us of products, 170 us of memory traffic, gaps"),
        ("job", "evaluation"): Prediction(2.0, 20.0, "917 launches took 20; with the test set on the device 2"),
        ("job", "logging"): Prediction(1.6, 2.5, "0.33 ms of host time a line, every 100 steps"),
        ("scaling", "weak 8192"): Prediction(85.0, 95.0, "4.3 MB over NVLink 30 us, a second graph 5 us"),
        ("scaling", "strong 128"): Prediction(0.0, 1.0, "the exchange stands beside latencies that stay"),
        ("scaling", "all-reduce"): Prediction(25.0, 60.0, "4.3 MB over NVLink"),
        ("steps", step_key("bf16", 128, COMPILED)): fast,
        ("steps", step_key("bf16", 128, UNCOMPILED)): slow,
        ("steps", step_key("bf16", 128, EAGER)): Prediction(600, 1300, "163 launches; 1,300 us on a slow host"),
        ("steps", step_key("bf16", 8192, COMPILED)): Prediction(
            300, 450, "90 us of products, 170 us of memory traffic, gaps"
        ),
        ("nodes", f"{COMPILED} nodes"): Prediction(NODES["bf16", COMPILED], NODES["bf16", COMPILED], "counted"),
        ("nodes", f"{UNCOMPILED} nodes"): Prediction(NODES["bf16", UNCOMPILED], NODES["bf16", UNCOMPILED], "counted"),
    }


PREDICTIONS = _predictions()
