"""Plugins: pieces of the user's own. The encoder and decoder are those of docs/extending.md."""

import json
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers import ROOT
from tests.helpers.forking import Piped
from tests.helpers.starts import JOB, SMALL, Job, Program, arguments, launch, ranks, run, together
from vae import __main__ as cli
from vae import plugins
from vae.commands import train
from vae.config import describe_components, load
from vae.config.help import _tables
from vae.distributed.signals import StopRequest
from vae.errors import InputError, PluginWarning
from vae.model import VAE
from vae.plugins import loading
from vae.plugins.tables import TABLES, base_of, problems, table_of
from vae.sweep import load as load_sweep
from vae.sweep.runner import Runner

USED = ("model.encoder=PatchEncoder", "model.decoder={name: PatchDecoder, width: 8}")
HEAD = """
from typing import Annotated
from pydantic import Field
from vae.networks import DECODERS, ENCODERS, Decoder, Network
from vae.schedules import SCHEDULES, Schedule
"""
FEW_STEPS = ("train.max_steps=4", "train.log_every=2", "objective.beta=1")


@pytest.fixture(autouse=True)
def forget() -> Iterator[Callable[[], None]]:
    """Give a function after which no plugin has been loaded; it is called when a test ends."""
    tables = {name: table_of(name) for name in TABLES}
    before, search = {name: dict(table) for name, table in tables.items()}, list(sys.path)

    def forget() -> None:
        for plugin in plugins.loaded():
            del sys.modules[plugin.path.stem]
        loading._loaded.clear()
        sys.path[:] = search
        for name, table in tables.items():
            table.clear()
            table.update(before[name])

    yield forget
    forget()


@pytest.fixture
def patches(tmp_path: Path) -> Path:
    """The plugin of docs/extending.md, in a folder of its own."""
    text = (ROOT / "docs/extending.md").read_text().split("\n## Your own pieces")[1]
    code = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[0]
    return written(tmp_path / "study" / "patches.py", code)


def written(path: Path, code: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(code)
    return path


def tables() -> dict[str, dict[str, Any]]:
    return {name: dict(table_of(name)) for name in TABLES}


# --- loading ----------------------------------------------------------------------------------------------------------


def test_every_table_that_a_configuration_names_takes_plugins_and_every_piece_passes_its_checks() -> None:
    known = [table_of(name) for name in TABLES]
    assert all(any(table is other for other in known) for _, table in _tables())
    for name in TABLES:
        table = table_of(name)
        first = next(iter(table.values()))
        assert [p for key, piece in table.items() for p in problems(name, key, piece, first)] == []
        assert (base_of(name) is None) == (name == "SOURCES")


def test_the_pieces_of_a_plugin_are_listed_and_checked_like_any_other(
    patches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["--plugin", str(patches), "components"]) == 0
    assert capsys.readouterr().out == (
        f"{describe_components()}\n\n{patches}: ENCODERS PatchEncoder, DECODERS PatchDecoder\n"
    )
    assert "  PatchEncoder: Images (B, C, H, W)" in describe_components()
    with pytest.raises(InputError, match=r"= 'Patch': .*known: .*, PatchEncoder \(--plugin FILE adds your own\)"):
        load(None, ["model.encoder=Patch"])
    with pytest.raises(InputError, match=r"model\.encoder\.width = 0: must be greater than or equal to 1 \(PatchEnc"):
        load(None, ["model.encoder={name: PatchEncoder, width: 0}"])
    assert plugins.load(patches) is plugins.load(patches)


REFUSED = {
    "x = 1": r"adds nothing to a table; add each piece to its table, e\.g\. ENCODERS",
    "def f(:": r"line 6: SyntaxError: invalid syntax",
    "\nimport nothing_like_it": r"line 7: ModuleNotFoundError: No module named 'nothing_like_it'",
    "ENCODERS['a'] = MyEncoder": r"line 6: NameError: name 'MyEncoder' is not defined",
    "raise SystemExit(3)": r"line 6: SystemExit: 3",
    "ENCODERS['MLPEncoder'] = Network": r"ENCODERS\['MLPEncoder'\] is there already; give your piece another name",
    "del ENCODERS['MLPEncoder']": r"ENCODERS\['MLPEncoder'\] is there already",
    "class A: ...\nENCODERS['A'] = A": r"ENCODERS\['A'\]: A must be a class derived from Network \(vae\.networks\.",
    "ENCODERS['A'] = 3": r"ENCODERS\['A'\]: 3 must be a class derived from Network",
    "class A(Network): ...\nDECODERS['A'] = A": r"DECODERS\['A'\]: A must be a class derived from Decoder",
    "class A(Decoder): ...\nDECODERS['A'] = A": r"DECODERS\['A'\]: A has no output_layer",
    "ENCODERS[7] = Network": r"ENCODERS\[7\]: the name must be a text",
    "class A(Network):\n  def __init__(self, sizes, *, width=3): ...\nENCODERS['A'] = A": (
        r"ENCODERS\['A'\]: A takes \(sizes\), must take \(sizes, features\), and settings behind a \*"
    ),
    "class A(Network):\n  def __init__(self, sizes, features, *, width=3): ...\nENCODERS['A'] = A": (
        r"ENCODERS\['A'\]: the setting width of A has no type; write it as width: Annotated\[int"
    ),
    "class A(Network):\n  def __init__(self, sizes, features, *, w: 'Nothing' = 3): ...\nENCODERS['A'] = A": (
        r"ENCODERS\['A'\]: the settings of A: name 'Nothing' is not defined"
    ),
    "class A(Network):\n  def __init__(self, sizes, features, *, w: Annotated[int, Field(ge=1)] = 0): ...\n"
    "ENCODERS['A'] = A": r"ENCODERS\['A'\]: the default of a setting of A: w = 0: must be greater than",
    "from vae.data.sources import SOURCES\nSOURCES['a'] = 3": r"SOURCES\['a'\]: 3 must be a function",
    "from vae.data.sources import SOURCES\nSOURCES['a'] = lambda name: 3": r"SOURCES\['a'\]: <lambda> takes \(na",
}


@pytest.mark.parametrize("code", REFUSED)
def test_a_plugin_that_is_no_good_is_refused_in_one_line_and_leaves_nothing(code: str, job: Job) -> None:
    before, modules, search = tables(), set(sys.modules), list(sys.path)
    refused = job("--plugin", written(Path("mine.py"), HEAD + code), "run.name=x")
    assert (refused.code, refused.out) == (2, "")
    assert re.match(rf"train_ddp\.py: mine\.py:? {REFUSED[code]}", refused.line), refused.line
    assert "mine" not in sys.modules
    assert (tables(), sys.path, [path.name for path in Path().iterdir()]) == (before, search, ["mine.py"])
    assert {name for name in set(sys.modules) - modules if not name.startswith("vae.")} == set()


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        ("nowhere.py", "cannot be read: No such file or directory; give a Python file that adds to the tables"),
        ("folder", "cannot be read: Is a directory"),
        ("pieces.txt", "must be a file of Python with a module's name, e.g. my_pieces.py"),
        ("my-pieces.py", "must be a file of Python with a module's name, e.g. my_pieces.py"),
        ("torch.py", "there is a module torch already; give the file another name"),
        ("antigravity.py", "there is a module antigravity already"),  # of Python's own, and not imported
        ("playwright.py", "there is a module playwright already"),  # installed, and not imported
    ],
)
def test_a_file_that_cannot_be_a_plugin_is_refused(job: Job, file: str, problem: str) -> None:
    Path("folder").mkdir()
    if file not in ("nowhere.py", "folder"):
        Path(file).write_text("")
    refused = job("--plugin", file)
    assert refused.code == 2
    assert refused.line.startswith(f"train_ddp.py: --plugin {file}: {problem}"), refused.line


def test_an_error_in_a_module_beside_the_plugin_is_said_with_its_own_file_and_line(job: Job) -> None:
    written(Path("beside.py"), "\n\n1 / 0\n")
    refused = job("--plugin", written(Path("mine.py"), "import beside"))
    assert refused.line == "train_ddp.py: beside.py line 3: ZeroDivisionError: division by zero"
    assert "beside" not in sys.modules


def test_two_plugins_cannot_take_one_name_and_one_that_has_changed_is_not_run_again(patches: Path) -> None:
    plugins.load(patches)
    other = written(patches.with_name("other.py"), patches.read_text())
    with pytest.raises(InputError, match=r"other\.py: ENCODERS\['PatchEncoder'\] is there already"):
        plugins.load(other)
    patches.write_text(patches.read_text() + "# changed")
    with pytest.raises(InputError, match=r"patches\.py: has changed since it was loaded; start Python anew"):
        plugins.load(patches)


def test_a_wrong_key_is_refused_before_a_plugin_runs(job: Job) -> None:
    refused = job("--plugin", written(Path("mine.py"), "open('pwned', 'w')"), "train.epochz=3")
    assert "train.epochz: there is no such key" in refused.line
    assert not Path("pwned").exists()


def test_a_required_setting_and_one_without_a_description_are_listed(tmp_path: Path) -> None:
    code = "class Mine(Schedule):\n  'A schedule.'\n  def __init__(self, *, a: float, b: int = 2): ...\n"
    code += "  def __call__(self, progress): return 1.0\nSCHEDULES['Mine'] = Mine"
    plugins.load(written(tmp_path / "mine.py", HEAD + code))
    assert "  Mine: A schedule.\n    a  (float; must be given)\n    b  (int; default 2)" in describe_components()
    with pytest.raises(InputError, match=r"objective\.beta\.a: must be given \(Mine\)"):
        load(None, ["objective.beta=Mine"])


# --- runs that need plugins -------------------------------------------------------------------------------------------


def refused_line(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert cli.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_run_and_its_model_say_which_plugin_they_need(
    job: Job, small: Path, patches: Path, forget: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [f"data.name={small}", *SMALL, *FEW_STEPS, "run.name=mine"]
    done = job("--plugin", patches, *USED, *settings)
    assert done.code == 0, done.err
    folder = Path("runs/mine")
    ((name, copy),) = [(path.name, path) for path in folder.glob("plugins/*/*")]
    assert (name, copy.read_text()) == ("patches.py", patches.read_text())
    first_start = json.loads((folder / "starts.jsonl").read_text())
    assert first_start["versions"]["patches.py"] == f"sha256 {copy.parent.name}"
    noise = torch.randn(3, 2)
    images = VAE.from_pretrained(folder / "model").sample(noise=noise)
    forget()

    # Without the plugin one line names it: to commands, to the same job, to one with default networks, in Python.
    needed = "needs PatchEncoder, PatchDecoder of the plugin patches.py: give --plugin"
    line = f"runs/mine: {needed} study/patches.py (in Python: vae.plugins.load)"
    assert refused_line(capsys, "sample", "runs/mine") == f"python -m vae: {line}"
    assert refused_line(capsys, "report", "runs/mine") == f"python -m vae: {line}"
    for networks in (USED, ()):
        assert job(*networks, *settings).line == f"train_ddp.py: {line}"
    with pytest.raises(InputError, match=f"runs/mine/model: {needed} patches.py"):
        VAE.from_pretrained(folder / "model")

    # From the run's own copy, if the file has gone.
    patches.rename(patches.with_name("moved.py"))
    assert refused_line(capsys, "sample", "runs/mine").endswith(f"--plugin {copy} (in Python: vae.plugins.load)")
    assert cli.main(["sample", "runs/mine", "--plugin", str(copy), "--count", "2"]) == 0
    assert capsys.readouterr().err == ""
    assert torch.equal(VAE.from_pretrained(folder / "model").sample(noise=noise), images)


def test_a_plugin_that_has_changed_is_a_warning_and_is_kept(
    job: Job, small: Path, patches: Path, forget: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [f"data.name={small}", *SMALL, "run.name=mine", *USED]
    assert job("--plugin", patches, *settings, *FEW_STEPS).code == 0
    (old,) = (path.name for path in Path("runs/mine/plugins").iterdir())
    forget()
    patches.write_text(patches.read_text() + "# changed\n")
    plugin = plugins.load(patches)
    changed = f"made with the plugin patches.py (sha256 {old}), here it is patches.py (sha256 {plugin.version}): "
    changed += "PatchEncoder, PatchDecoder may compute something else"
    with pytest.warns(PluginWarning, match=re.escape(f"runs/mine/model: {changed}")):
        VAE.from_pretrained("runs/mine/model")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert cli.main(["sample", "runs/mine", "--count", "2"]) == 0
    assert capsys.readouterr().err == f"warning: runs/mine: {changed}\n"
    again = job("--plugin", patches, *settings, *FEW_STEPS, "train.max_steps=6")
    assert (again.code, again.line) == (0, f"warning: runs/mine: {changed}")
    assert {path.name for path in Path("runs/mine/plugins").iterdir()} == {old, plugin.version}
    VAE.from_pretrained("runs/mine/model")  # of the newest version: no warning, which would be an error


def test_sources_trackers_schedules_and_modules_beside_a_plugin_are_remembered(
    job: Job, small: Path, forget: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    code = f"""{HEAD}
from beside import Half
from vae.data.sources import SOURCES
from vae.training.sinks import SINKS, Sink

class Quiet(Sink):
    def __init__(self, folder, step, warn): ...
    def scalar(self, tag, value, step): ...
    def flush(self): ...
    def close(self): ...

SOURCES["ours"] = lambda name, root: SOURCES[".npz"]({str(small)!r}, root)
SOURCES["theirs"] = SOURCES["ours"]
SCHEDULES["Half"] = Half
SINKS["quiet"] = Quiet
"""
    written(Path("beside.py"), "from vae.schedules import Constant\nclass Half(Constant): ...\n")
    settings = ["data.name=ours", "run.trackers=[quiet]", *SMALL, *FEW_STEPS, "objective.beta=Half", "run.name=mine"]
    done = job("--plugin", written(Path("mine.py"), code), *settings)
    assert done.code == 0, done.err
    (need,) = json.loads(Path("runs/mine/plugins.json").read_text())
    assert need["pieces"] == {"SCHEDULES": ["Half"], "SINKS": ["quiet"], "SOURCES": ["ours"]}
    copies = {path.name: path.read_text() for path in (Path("runs/mine") / need["copy"]).parent.iterdir()}
    assert copies == {"mine.py": code, "beside.py": Path("beside.py").read_text()}
    assert "plugins" not in json.loads(Path("runs/mine/model/config.json").read_text()), "its networks are ours"
    forget()
    assert "needs Half, quiet, ours of the plugin mine.py" in refused_line(capsys, "sample", "runs/mine")
    del sys.modules["beside"]


def test_a_plugin_of_which_a_run_uses_nothing_is_a_warning_and_not_needed(
    job: Job, small: Path, patches: Path, forget: Callable[[], None]
) -> None:
    done = job("--plugin", patches, f"data.name={small}", *SMALL, *FEW_STEPS, "run.name=plain")
    unused = "this run uses none of its pieces: ENCODERS PatchEncoder, DECODERS PatchDecoder"
    assert (done.code, done.line) == (0, f"warning: --plugin patches.py: {unused}")
    assert not Path("runs/plain/plugins.json").exists()
    forget()
    assert cli.main(["sample", "runs/plain", "--count", "2"]) == 0


@pytest.mark.parametrize("needs", ["{", '"x"', "[1]", '[{"file": "a.py"}]', '{"a": 1}'])
def test_damaged_records_of_plugins_are_refused(
    needs: str, job: Job, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("runs/mine").mkdir(parents=True)
    Path("runs/mine/config.yaml").write_text("{}")
    Path("runs/mine/plugins.json").write_text(needs)
    for line in (refused_line(capsys, "sample", "runs/mine"), job(f"data.name={small}", "run.name=mine").line):
        assert re.match(r".*: runs/mine(/plugins\.json)?: .*cannot be read.*; restore it", line), line


def test_nothing_but_the_command_line_runs_a_plugin(
    job: Job, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run or a model that somebody sends says what it needs; its files are not run, nor modules that it names."""
    bad = written(tmp_path / "bad" / "bad.py", f"open({str(tmp_path / 'pwned')!r}, 'w')")
    need = {"file": "bad.py", "sha256": {}, "pieces": {"bad:X": ["Y"], "ENCODERS": ["Z"]}}
    assert job(f"data.name={small}", *SMALL, *FEW_STEPS, "run.name=sent").code == 0
    config = Path("runs/sent/model/config.json")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"plugins": [need]}))
    Path("runs/sent/plugins.json").write_text(json.dumps([need | {"path": str(bad), "copy": str(bad)}]))
    assert "needs Z, Y of the plugin bad.py: give --plugin" in refused_line(capsys, "sample", "runs/sent")
    with pytest.raises(InputError, match=r"needs Z, Y of the plugin bad\.py"):
        VAE.from_pretrained("runs/sent/model")
    for key in ("plugin", "plugins", "run.plugin"):
        assert f"{key}: there is no such key" in job(f"{key}={bad}").line
    sweep = written(Path("s.yaml"), f"plugin: {bad}\nseeds: 2\n")
    assert "plugin: there is no such key" in refused_line(capsys, "sweep", str(sweep), "--list")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("folder", ["file/run", "x" * 300])
def test_a_folder_that_cannot_hold_a_run_is_refused_as_ever(folder: str, job: Job, small: Path) -> None:
    Path("file").touch()
    refused = job(f"data.name={small}", f"run.dir={folder}")
    assert refused.code == 2
    assert refused.line.startswith(f"train_ddp.py: {folder}: cannot be written: "), refused.line


# --- several processes, signals, sweeps -------------------------------------------------------------------------------


def test_two_processes_equal_one_and_a_stopped_run_continues(tmp_path: Path, small: Path, patches: Path) -> None:
    settings = [
        "--plugin",
        patches,
        *USED,
        f"data.name={small}",
        *SMALL,
        "train.precision=fp64",
        "model.condition=true",
    ]
    one = launch(1, *settings, f"run.dir={tmp_path / 'one'}")
    assert one.code == 0, one.err
    half = launch(2, *settings, f"run.dir={tmp_path / 'two'}", "train.max_steps=9")
    assert half.code == 0, half.err
    two = launch(2, *settings, f"run.dir={tmp_path / 'two'}")
    assert two.code == 0, two.err
    weights = [load_file(tmp_path / name / "model/model.safetensors") for name in ("one", "two")]
    assert weights[0].keys() == weights[1].keys()
    assert max((weights[0][key] - weights[1][key]).abs().max().item() for key in weights[0]) < 1e-12


def test_plugins_that_differ_between_ranks_are_refused(tmp_path: Path, small: Path, patches: Path) -> None:
    other = shutil.copytree(patches.parent, tmp_path / "other") / patches.name
    other.write_text(other.read_text() + "# changed\n")
    words = arguments(f"data.name={small}", *USED, f"run.dir={tmp_path / 'run'}")
    started = [
        Program(JOB, "--plugin", plugin, *words, env=rank)
        for plugin, rank in zip((patches, other), ranks(2), strict=True)
    ]
    refused = together(started)
    assert refused.codes == (2, 2)
    assert refused.line.startswith("train_ddp.py: --plugin patches.py: is not the same on all ranks (sha256 ")
    assert not (tmp_path / "run").exists()


STOPPING = "\nimport os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n"


def test_a_signal_is_noted_while_a_plugin_runs(job: Job, tmp_path: Path, small: Path, patches: Path) -> None:
    assert job("--plugin", patches, f"data.name={small}", *SMALL, *FEW_STEPS, "run.name=mine", *USED).code == 0
    patches.write_text(patches.read_text() + STOPPING)
    stopped = run(JOB, "--plugin", patches, *arguments(f"data.name={small}", *USED, *SMALL), cwd=tmp_path)
    assert (stopped.code, "SIGTERM: stopped before the first step" in stopped.err) == (85, True), stopped.err
    stopped = run("-m", "vae", "evaluate", "--plugin", patches, "runs/mine", "--samples", "2", cwd=tmp_path)
    assert (stopped.code, "SIGTERM: " in stopped.err) == (85, True), stopped.err


def test_a_sweep_passes_its_plugins_on_to_its_members(
    patches: Path,
    tmp_path: Path,
    small: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    forget: Callable[[], None],
) -> None:
    monkeypatch.chdir(tmp_path)
    inside = f"data.name: {small}, model.encoder: PatchEncoder, train.max_steps: 2, run.figures: false"
    written(Path("s.yaml"), f"set: {{{inside}}}\n")
    words = ["sweep", "s.yaml", "--plugin", str(patches)]
    (member,) = load_sweep("s.yaml", plugins=[patches]).members
    assert train.read("", member.arguments).config.model.encoder["name"] == "PatchEncoder"
    assert cli.main([*words, "--list"]) == 0
    *members, array = capsys.readouterr().out.splitlines()
    assert all(f"--plugin {patches}" in line for line in members)
    assert array.endswith(f"sweep.sbatch s.yaml --plugin {patches}")
    monkeypatch.setattr("vae.sweep.runner.start_process", Piped)
    assert Runner(load_sweep("s.yaml", plugins=[patches]), os.environ, jobs=2, stop=StopRequest()).run() == 0
    assert cli.main([*words, "--report"]) == 0
    page = Path("runs/s/report.html").read_text()
    assert f"python -m vae report runs/s --plugin {patches}<" in page
    assert f"config.yaml --plugin {patches} " in page
    forget()
    needed = "needs PatchEncoder of the plugin patches.py: give --plugin study/patches.py"
    for action in ("--status", "--report", "--list"):
        assert needed in refused_line(capsys, "sweep", "s.yaml", action)


def test_commands_load_plugins_or_say_that_they_do_it_themselves() -> None:
    """Those that see to signals or to a launcher do so first; for the others it is done before they run."""
    calling = [
        path.stem for path in (ROOT / "vae/commands").glob("*.py")
        if re.search(r"^ +(load_plugins\(args\)|config = configuration_of\()", path.read_text(), re.MULTILINE)
    ]  # fmt: skip
    assert sorted({*calling} - {"parsing", "train"}) == sorted(cli.LOAD_THEMSELVES)
