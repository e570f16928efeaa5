"""The lines of `gpu_check.py`'s table: what each part measures, what is promised of it, and what was predicted.

The predictions were made before anything had run on a GPU, for one as fast as an H200: from launches and graph nodes as
they were counted under a fake CUDA runtime, where torch's own code runs and kernels do not. A prediction that proves
wrong is a reason to look, not to change it here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from targets import EPOCHS, Target, targets_of

EAGER, UNCOMPILED, COMPILED = "eager", "graph uncompiled", "graph compiled"
ENGINES = (COMPILED, UNCOMPILED, EAGER)
JOB_ENGINES = (
    "auto",
    "graph",
)  # of 50 epochs, for which `auto` captures steps without compiling them, `graph` compiles
LARGE = "images 8192"  # the target of the fastest engine alone


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
        """Return true if the promise is kept; None: nothing is promised, or nothing was measured."""
        return None if self.bound is None else Target(self.what, self.at_least, self.bound, values).met

    @property
    def prediction(self) -> "Prediction | None":
        """The prediction, if there is one."""
        return PREDICTIONS.get((self.part, self.key))


@dataclass(frozen=True)
class Prediction:
    """The lowest and the highest value that a line was expected to have, with their origin."""

    low: float
    high: float
    origin: str

    def right(self, values: Sequence[float]) -> bool | None:
        """Return true if the median of some values is within; None: nothing was measured."""
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
        Line("tf32", "convolution", "relative error of a float32 convolution in a job", 1e-5, law=True),
        Line("tf32", "product", "relative error of a float32 product in a job", 1e-5, law=True),
        Line("tf32", "gradient", "convolution: gradients of two passes, largest difference", 0.0, law=True),
        Line("tf32", "allowed", "relative error of a convolution where TF32 is allowed"),
    ]


def _job() -> list[Line]:
    found = []
    for engine in JOB_ENGINES:
        name = f"train.engine={engine}"
        promised = [t for t in targets_of("cuda", [], engine) if t.key != LARGE]
        found += [Line("job", f"{engine} {t.key}", f"{name}, {t.what}", t.bound, t.at_least) for t in promised]
        found += [
            Line("job", f"{engine} evaluation", f"{name}: ms of evaluation an epoch"),
            Line("job", f"{engine} evaluation share", f"{name}: evaluation, % of training"),
            Line("job", f"{engine} logging", f"{name}: logging, % of training"),
            Line("job", f"{engine} checkpoints", f"{name}: waiting for checkpoints, % of training", 1.0),
            Line("job", f"{engine} start-up", f"{name}: seconds from the command to the first step"),
        ]
    large = [target for target in targets_of("cuda", [], "") if target.key == LARGE]
    return found + [Line("job", target.key, target.what, target.bound, target.at_least) for target in large]


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
            Line("nodes", f"{engine} step", f"{what}: us a step, timed beside the trace"),
            Line("nodes", f"{engine} price", f"{what}: us between two nodes (step less kernels, over nodes)"),
        ]
    return found


# --- the predictions --------------------------------------------------------------------------------------------------

STEPS = 23_450  # of 50 epochs at batch 128
PARTS_OF_A_STEP = "17 products of 3.5 to 4.5 us, the others 1.5 to 2, each of which waits for the last"
NODES = {COMPILED: 46, UNCOMPILED: 167}  # of a captured step in bf16
CHAINS = {  # of a step in bf16 at batch 128: microseconds
    kind: Prediction(low, high, f"{NODES[kind]} nodes counted: {PARTS_OF_A_STEP}")
    for kind, low, high in ((COMPILED, 95, 140), (UNCOMPILED, 330, 400))
}


def _predictions() -> dict[tuple[str, str], Prediction]:
    exact = Prediction(0, 1e-9, "rounding of float64, amplified by AdamW")
    large = "90 us of products, 170 us of memory traffic, gaps"
    found = {
        ("exactness", "eager"): exact,
        ("exactness", "graph"): exact,
        ("tf32", "allowed"): Prediction(1e-4, 1e-3, "products of 10 bits"),
        ("job", LARGE): Prediction(14e6, 20e6, large),
        ("scaling", "weak 8192"): Prediction(85, 95, "4.3 MB over NVLink 30 us, a second graph 5 us"),
        ("scaling", "strong 128"): Prediction(0, 1, "the exchange stands beside latencies that stay"),
        ("scaling", "all-reduce"): Prediction(25, 60, "4.3 MB over NVLink"),
        ("steps", step_key("bf16", 128, EAGER)): Prediction(600, 1300, "163 launches; 1,300 us on a slow host"),
        ("steps", step_key("bf16", 8192, COMPILED)): Prediction(300, 450, large),
        ("steps", f"{step_key('bf16', 8192, COMPILED)} loading"): Prediction(
            430, 700, "a core draws an epoch in 3.5 ms"
        ),
    }
    for engine, kind in (("auto", UNCOMPILED), ("graph", COMPILED)):
        chain, count = CHAINS[kind], NODES[kind]
        us = f"{chain.low:.0f} to {chain.high:.0f} us a step"
        low, high = (STEPS * step / 1e6 + EPOCHS * ms / 1e3 for step, ms in ((chain.low, 2), (chain.high, 20)))
        found |= {
            ("steps", step_key("bf16", 128, kind)): chain,
            ("nodes", f"{kind} nodes"): Prediction(count - 1, count + 1, f"{count} counted"),
            ("job", f"{engine} run"): Prediction(
                low, high, f"{STEPS:,} steps, {us}; {EPOCHS} evaluations of 2 to 20 ms"
            ),
            ("job", f"{engine} images"): Prediction(128e6 / chain.high, 128e6 / chain.low, us),
            ("job", f"{engine} evaluation"): Prediction(2, 20, "917 launches took 20; on the device throughout 2"),
            ("job", f"{engine} logging"): Prediction(
                330 / chain.high, 330 / chain.low, f"0.33 ms a line of 100 steps, {us}"
            ),
        }
    return found


PREDICTIONS = _predictions()
