"""Refusals before anything heavy is imported, and modules that a job imports only when it needs them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.helpers.slurm import STEP
from tests.helpers.starts import Outcome, arguments, environment, run
from vae import __main__ as cli
from vae.config import describe_components

TORCH = ("torch", "torchvision", "accelerate", "huggingface_hub", "tensorboard", "matplotlib")
NEVER = (  # by one process that trains eagerly
    *("torch._dynamo", "torch._inductor", "torch.distributed.tensor", "torch.distributed.nn", "torch.distributed.fsdp"),
    *("torch.onnx", "torchvision", "triton", "sympy", "matplotlib", "sklearn", "scipy", "pandas", "jinja2"),
)
LAUNCHED = {  # as torchrun says it to the only process of a job
    **{"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"},
    **{"MASTER_ADDR": "localhost", "MASTER_PORT": "0"},
}
TRAIN = f"runpy.run_path({str(ROOT / 'train_ddp.py')!r}, run_name='__main__')"
VAE = "runpy.run_module('vae', run_name='__main__', alter_sys=True)"


def without(modules: tuple[str, ...], program: str, *args: str, env: dict[str, str] | None = None) -> Outcome:
    """Run a program where it is an error to import one of the modules."""
    code = f"import runpy, sys; sys.modules.update(dict.fromkeys({modules!r})); {program}"
    return run("-c", code, *args, real=True, env=env)


@pytest.mark.parametrize(
    ("program", "args", "words"),
    [
        (TRAIN, ["--help"], ["--resume", "train.batch_size  (int >= 1; default 128)", "python -m vae components"]),
        (VAE, ["--help"], ["components", "doctor", "report"]),
        (VAE, ["report", "--help"], ["RUN"]),
        (VAE, ["doctor", "--help"], ["key=value"]),
        (VAE, ["evaluate", "--help"], ["--samples", "--compare"]),
        (VAE, ["components", "--help"], ["settings"]),
        (VAE, ["impute", "--help"], ["--mask", "--data-root"]),
        (VAE, ["score", "--help"], ["--against"]),
        (VAE, ["quality", "--help"], ["--feed"]),
    ],
)
def test_help_does_not_import_torch(program: str, args: list[str], words: list[str]) -> None:
    shown = without(TORCH, program, *args)
    assert (shown.code, shown.err) == (0, "")
    assert all(word in shown.out for word in words), shown.out


REFUSED = {
    "train.epochz=3": "train.epochz: there is no such key (in the command line); did you mean 'train.epochs'?",
    "train.epochs=abc": "train.epochs = 'abc': must be a valid integer",
    "train.epochs=0": "train.epochs = 0: must be greater than or equal to 1",
    "train.epochs": "'train.epochs': must be key=value",
    "--config=nowhere.yaml": "nowhere.yaml: cannot be read",
    "--nothing": "unrecognized arguments: --nothing",
}


COMMANDS = pytest.mark.parametrize(
    ("program", "command"), [(TRAIN, []), (VAE, ["doctor"])], ids=["train_ddp.py", "doctor"]
)


@COMMANDS
@pytest.mark.parametrize("argument", REFUSED)
def test_what_is_wrong_with_the_arguments_is_said_without_torch(
    program: str, command: list[str], argument: str
) -> None:
    refused = without(TORCH, program, *command, argument)
    assert (refused.code, refused.out) == (2, "")
    assert REFUSED[argument] in refused.line


@COMMANDS
def test_what_the_launcher_asks_for_in_vain_is_said_without_torch(program: str, command: list[str]) -> None:
    refused = without(TORCH, program, *command, env=LAUNCHED | {"ACCELERATE_USE_DEEPSPEED": "true"})
    assert (refused.code, refused.out) == (2, "")
    assert "ACCELERATE_USE_DEEPSPEED = true: the launcher asks for DeepSpeed; here each process" in refused.line


@COMMANDS
@pytest.mark.parametrize("task", [{"LOCAL_RANK": "1"}, {"LOCAL_RANK": "0", "SLURM_LOCALID": "1"}], ids=str)
def test_what_all_processes_of_a_machine_find_one_of_them_says(
    program: str, command: list[str], task: dict[str, str]
) -> None:
    refused = without(TORCH, program, *command, "train.epochz=3", env=task)
    assert (refused.code, refused.out, refused.err) == (2, "", "")


def test_what_is_wrong_with_a_component_is_said_with_no_more_than_torch() -> None:
    refused = without(("accelerate", "torchvision", "matplotlib"), TRAIN, "model.posterior.scal=exp")
    assert refused.code == 2
    assert "model.posterior.scal: there is no such key; did you mean 'scale'? (DiagonalNormal)" in refused.line
    assert "No module named" not in refused.line
    assert "torch" in without(TORCH, TRAIN, "model.posterior.scal=exp").err, "the witness: that does import torch"


def test_slurm_and_signals_are_seen_to_before_anything_heavy_is_imported() -> None:
    refused = without((*TORCH, "pydantic", "numpy", "yaml"), TRAIN, env={"SLURM_STEP_NUM_TASKS": "x"})
    assert (refused.code, refused.out, refused.line) == (2, "", "train_ddp.py: SLURM_STEP_NUM_TASKS = x: not a number")


@pytest.mark.parametrize("plugin", [[], ["--plugin", "not_run_for_this.py"]], ids=["plain", "with a plugin"])
def test_a_sweep_file_is_read_without_torch(plugin: list[str]) -> None:
    shown = without(TORCH, VAE, "sweep", str(ROOT / "configs/sweeps/beta.yaml"), "--folder", "17", *plugin)
    assert (shown.code, shown.err, shown.out.count("seed=2")) == (0, "", 1)


def test_a_file_that_cannot_be_a_plugin_is_said_without_torch() -> None:
    refused = without(TORCH, TRAIN, "--plugin", "nowhere.py")
    assert (refused.code, refused.out) == (2, "")
    assert "train_ddp.py: --plugin nowhere.py: cannot be read" in refused.line


def test_a_program_begins_with_its_place_its_signals_and_its_umask() -> None:
    program = f"""
import os, signal, time
from vae.distributed import startup
from vae.distributed.signals import StopRequest
os.umask(0o020)
here, stop = {STEP!r}, StopRequest()
startup.begin(here, stop)
os.kill(os.getpid(), signal.SIGUSR1)
while not stop.signum:
    time.sleep(0.01)
print(here["RANK"], "RANK" in os.environ, signal.Signals(stop.signum).name, oct(os.umask(0)))
"""
    done = run("-c", program, real=True)
    assert (done.out, done.err) == ("3 False SIGUSR1 0o22\n", "")


def test_a_job_does_not_import_what_few_need_or_what_draws_at_the_end() -> None:
    assert without((*NEVER, "PIL"), "import train_ddp").err == ""


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_one_process_trains_evaluates_and_saves_without_what_takes_long_to_import(
    tmp_path: Path, precision: str
) -> None:
    """The default data set, model and engine; each of these modules takes a tenth of a second and more."""
    settings = [f"run.dir={tmp_path / 'run'}", "train.max_steps=3", f"train.precision={precision}"]
    done = without(NEVER, TRAIN, *arguments(*settings))
    assert done.code == 0, done.err
    assert (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize(("variables", "imported"), [({}, False), (LAUNCHED, True)], ids=["alone", "launched"])
def test_what_would_hold_a_process_group_is_imported_before_there_is_one(
    variables: dict[str, str], imported: bool
) -> None:
    """A module that is imported later keeps the group alive until the interpreter exits, which then may abort."""
    program = """
import os, sys, torch
from vae.distributed import launch

def look(*args, **settings):
    print("a group, and torch.distributed.nn.functional", "torch.distributed.nn.functional" in sys.modules)
    return begin(*args, **settings)

begin, torch.distributed.init_process_group = torch.distributed.init_process_group, look
launch.make_accelerator("cpu", "no", os.environ)
print("torch.distributed.nn.functional" in sys.modules)
launch.leave()
"""
    done = run("-c", program, real=True, env=variables)
    assert done.code == 0, done.err
    assert done.out == ("a group, and torch.distributed.nn.functional True\n" if imported else "") + f"{imported}\n"


def test_the_collector_rests_while_modules_are_imported_and_works_when_the_job_begins(small: Path) -> None:
    program = f"""
import gc, sys
class Look:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("while torch is imported:", gc.isenabled())
sys.meta_path.insert(0, Look())
sys.argv = ["train_ddp.py", "--dry-run", "data.name={small}"]
try:
    runpy.run_path({str(ROOT / "train_ddp.py")!r}, run_name="__main__")
finally:
    print("in the job:", gc.isenabled())
"""
    done = run("-c", f"import runpy{program}", real=True)
    assert done.code == 0, done.err
    assert done.out.startswith("while torch is imported: False\n")
    assert done.out.endswith("in the job: True\n")


def test_a_configuration_may_come_from_a_pipe(small: Path, tmp_path: Path) -> None:
    """It can be read only once."""
    command = [sys.executable, str(ROOT / "train_ddp.py"), "--config", "/dev/stdin", "--dry-run", f"data.name={small}"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), input="model: {latent_dim: 7}", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "latent_dim: 7" in done.stdout


def test_options_may_stand_between_keys() -> None:
    args = cli.parse(["doctor", "train.epochs=1", "--config", "x.yaml", "run.seed=2"])
    assert (args.config, args.overrides) == ("x.yaml", ["train.epochs=1", "run.seed=2"])


def test_each_command_has_a_file_and_each_file_is_a_command() -> None:
    files = {path.stem for path in (ROOT / "vae/commands").glob("[!_]*.py")}
    assert files - {"parsing", "printing", "train"} == set(cli.COMMANDS)


def test_actions_on_a_model_are_imported_when_they_are_asked_for() -> None:
    program = "from vae import uses; print(sorted(uses.__all__), hasattr(uses, 'nothing')); uses.encode"
    done = without(TORCH, program)
    assert done.out.startswith("['denoise', 'encode', 'impute', 'interpolate', 'sample', 'score'] False")
    assert "import of torch halted" in done.err


def test_a_keyboard_interrupt_is_one_line_and_exit_code_130(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("vae.commands.components.describe_components", interrupt)
    assert cli.main(["components"]) == 130
    assert capsys.readouterr() == ("", "python -m vae: interrupted\n")


def test_the_components_can_be_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["components"]) == 0
    assert capsys.readouterr().out == describe_components() + "\n"


COMPONENTS, DRY_RUN = ["-m", "vae", "components"], [str(ROOT / "train_ddp.py"), *arguments("--dry-run")]


@pytest.mark.parametrize(
    ("command", "place", "code", "error"),
    [
        (COMPONENTS, "/dev/full", 2, "python -m vae: standard output: cannot be written: No space left on device\n"),
        (COMPONENTS, "closed pipe", 0, ""),
        (DRY_RUN, "/dev/full", 0, ""),
        (DRY_RUN, "closed pipe", 0, ""),
    ],
    ids=lambda value: value if isinstance(value, str) and "/" in value else "",
)
def test_a_console_that_takes_no_lines_ends_no_program_with_a_traceback(
    command: list[str], place: str, code: int, error: str
) -> None:
    """A job loses the lines; a command whose purpose the lines are says so, unless its reader has gone."""
    if place == "closed pipe":
        reading, writing = os.pipe()
        os.close(reading)
    else:
        writing = os.open(place, os.O_WRONLY)
    ended = subprocess.run(
        [sys.executable, *command], stdout=writing, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment(),
        check=False,
    )  # fmt: skip
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (code, error)
