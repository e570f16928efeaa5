"""The order of the layers: imports of the modules of vae/, as they are loaded, go one way and in no circle.

What a function imports when it runs is not looked at: so are heavy libraries kept away until they are needed.
"""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.helpers import ROOT

LAYERS = (  # each imports of its own layer and of those above it in this list
    ("errors", "compat", "files", "components", "canvas", "bars", "markdown"),
    ("networks", "data", "figures", "schedules"),
    ("families", "config", "distributed", "plugins"),
    ("model",),
    ("objectives",),
    ("engine",),
    ("assemble",),
    ("run",),
    ("evaluation",),
    ("sharing",),
    ("training", "uses"),
    ("report", "doctor"),
    ("sweep",),
    ("commands",),
    ("__main__",),
)
FLOOR = {name: floor for floor, names in enumerate(LAYERS) for name in names}


def modules() -> dict[str, Path]:
    """Return the file of each module of the package, by its dotted name."""
    paths = {path.relative_to(ROOT).with_suffix(""): path for path in (ROOT / "vae").rglob("*.py")}
    return {".".join(path.parts).removesuffix(".__init__"): file for path, file in paths.items()}


MODULES = modules()


def imported(path: Path) -> Iterator[str]:
    """Yield the modules of the package that a file imports as it is loaded."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            inner = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in MODULES else node.module for name in inner)


ARROWS = {name: set(imported(path)) - {name, "vae"} for name, path in MODULES.items()}


def floor(module: str) -> int:
    return FLOOR[module.split(".")[1]]


def test_every_package_and_module_has_a_layer() -> None:
    assert {name.split(".")[1] for name in MODULES if name != "vae"} == FLOOR.keys()


def test_imports_go_one_way() -> None:
    up = {(name, other) for name, others in ARROWS.items() for other in others if floor(other) > floor(name)}
    assert not up


def test_no_imports_go_in_a_circle() -> None:
    order = list(TopologicalSorter(ARROWS).static_order())  # raises `CycleError`, which names the circle
    assert order.index("vae.errors") < order.index("vae.__main__")


@pytest.mark.parametrize("package", ["distributed", "run", "training", "uses", "commands"])
def test_the_init_of_a_package_with_light_modules_imports_nothing(package: str) -> None:
    """To import a module is to run the `__init__` of the package that holds it: that of `distributed.signals`, say."""
    assert not ARROWS[f"vae.{package}"]


def test_no_test_imports_another() -> None:
    importing = [
        f"{path.relative_to(ROOT)}: {line}"
        for path in (ROOT / "tests").rglob("*.py")
        for line in path.read_text().splitlines()
        if line.startswith(("from tests", "import tests")) and "test_" in line
    ]
    assert not importing
