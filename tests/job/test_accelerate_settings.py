"""Accelerate's variables, as its launcher and `accelerate config` set them, and the job that follows them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.helpers.starts import SMALL, Job
from vae.commands.parsing import Parser, add_configuration, add_plugins, configuration_of
from vae.config import read_yaml
from vae.distributed.accelerate_settings import PRECISION
from vae.distributed.launch import make_accelerator
from vae.errors import InputError

PLAIN = {  # as Accelerate 1.10's `accelerate launch` without any wish sets them
    "ACCELERATE_MIXED_PRECISION": "no",
    "ACCELERATE_USE_CPU": "False",
    "ACCELERATE_DYNAMO_BACKEND": "NO",
    "ACCELERATE_DYNAMO_MODE": "default",
    "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False",
    "ACCELERATE_DYNAMO_USE_DYNAMIC": "False",
    "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION": "False",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
    "ACCELERATE_USE_FSDP": "false",
    "PJRT_DEVICE": "CPU",
}
UNSUPPORTED = {
    "ACCELERATE_USE_FSDP=true": ("FSDP", "each process holds the whole model"),
    "ACCELERATE_USE_DEEPSPEED=true": ("DeepSpeed", "each process holds the whole model"),
    "ACCELERATE_USE_MEGATRON_LM=true": ("Megatron-LM", "each process holds the whole model"),
    "ACCELERATE_USE_PARALLELISM_CONFIG=true": (
        "tensor, context or sharded parallelism",
        "each process holds the whole model",
    ),
    "PJRT_DEVICE=TPU": ("a TPU", "runs on CUDA devices or CPUs"),
    "ACCELERATE_IN_TPU_POD=1": ("TPUs", "runs on CUDA devices or CPUs"),
    "ACCELERATE_DYNAMO_BACKEND=INDUCTOR": ("a dynamo backend", "train.engine"),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS=4": ("gradient accumulation", "train.micro_batch"),
}
Launcher = Callable[..., None]


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> Launcher:
    """Set the variables of a plain `accelerate launch` and others: `launcher(ACCELERATE_MIXED_PRECISION="bf16")`."""

    def set_variables(**others: str) -> None:
        for name, value in (PLAIN | others).items():
            monkeypatch.setenv(name, value)

    return set_variables


def resolved(*words: str, **environment: str) -> str:
    """Return train.precision by a command line and the launcher's variables."""
    parser = Parser("test")
    add_configuration(parser, "")
    add_plugins(parser)
    return configuration_of(parser.parse_args(words), PLAIN | environment).train.precision


# --- precision --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked", "used"), [("no", "fp32"), ("", "fp32"), ("bf16", "bf16"), ("FP16", "fp16")])
def test_precision_left_alone_is_the_launchers_and_given_it_wins(asked: str, used: str, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("train: {precision: fp64}")
    asks = {PRECISION: asked}
    assert resolved(**asks) == used
    assert resolved("train.epochs=2", **asks) == used
    assert resolved("--config", str(file), **asks) == "fp64"
    assert resolved("--config", str(file), "train.precision=fp32", **asks) == "fp32"


def test_what_is_saved_shown_and_continued_is_the_precision_used(
    job: Job, small: Path, launcher: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = [f"data.name={small}", "run.dir=r", *SMALL, "train.device=cpu"]
    launcher(**{PRECISION: "bf16"})
    assert "precision: bf16" in job(*run, "--dry-run").out
    done = job(*run)
    assert done.code == 0, done.err
    assert "launcher" not in done.err
    assert " in bf16, engine" in done.out
    assert read_yaml(Path("r/config.yaml"))["train"]["precision"] == "bf16"
    assert json.loads(Path("r/summary.json").read_text())["precision"] == "bf16"

    monkeypatch.delenv(PRECISION)
    assert "r is finished" in job(*run, "train.precision=bf16").out
    refused = job(*run)
    assert refused.code == 2
    assert "(train.precision: bf16 -> fp32); keep to its settings, or" in refused.line


@pytest.mark.parametrize("given", ["fp32", "bf16"])
def test_a_contradiction_is_one_warning_that_names_both(job: Job, small: Path, launcher: Launcher, given: str) -> None:
    settings = [f"data.name={small}", f"train.precision={given}", "train.device=cpu", "--dry-run"]
    launcher()
    assert "launcher" not in job(*settings).err, "`no` is no wish"
    launcher(**{PRECISION: given})
    assert "launcher" not in job(*settings).err
    launcher(**{PRECISION: "fp16"})
    shown = job(*settings)
    assert (shown.code, f" in {given}, engine" in shown.out) == (0, True), shown.err
    warned = [line for line in shown.err.splitlines() if "launcher" in line]
    sentence = f"train.precision = '{given}' was given and is used, not the launcher's fp16 ({PRECISION})"
    assert warned == [f"warning: {sentence}"]


def test_fp16_on_a_cpu_is_refused_both_ways(job: Job, small: Path, launcher: Launcher) -> None:
    said = "train.precision = 'fp16': needs a CUDA device; use bf16 or fp32 on a CPU"
    asked = job(f"data.name={small}", "train.precision=fp16")
    assert (asked.code, asked.line) == (2, f"train_ddp.py: {said}")
    launcher(**{PRECISION: "fp16"})
    launched = job(f"data.name={small}")
    assert (launched.code, launched.line) == (2, f"train_ddp.py: {said} (the launcher asks for fp16: {PRECISION})")


@pytest.mark.parametrize(
    ("asked", "words", "problem"),
    [("fp8", [], "train.precision = 'fp8'"), ("bf16", ["train.tf32=true"], "train.tf32 = true")],
)
def test_a_refusal_about_the_launchers_precision_names_the_launcher(asked: str, words: list[str], problem: str) -> None:
    with pytest.raises(InputError) as refusal:
        resolved(*words, **{PRECISION: asked})
    assert str(refusal.value).startswith(problem)
    assert str(refusal.value).endswith(f" (the launcher asks for {asked}: {PRECISION})")
    assert resolved("train.precision=fp32", *words, **{PRECISION: asked}) == "fp32"


def test_the_projects_own_launch_files_ask_for_no_precision() -> None:
    files = list((ROOT / "launch/accelerate").glob("*.yaml"))
    assert files
    assert {resolved("train.precision=bf16", **{PRECISION: read_yaml(file)["mixed_precision"]}) for file in files} == {
        "bf16"
    }
    assert {resolved(**{PRECISION: read_yaml(file)["mixed_precision"]}) for file in files} == {"fp32"}


# --- what a job has not -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", UNSUPPORTED)
def test_what_a_job_does_in_another_way_is_refused_in_one_line(job: Job, launcher: Launcher, variable: str) -> None:
    name, _, value = variable.partition("=")
    launcher(**{name: value})
    refused = job()
    assert refused.code == 2
    wish, instead = UNSUPPORTED[variable]
    assert refused.line.startswith(f"train_ddp.py: {name} = {value}: the launcher asks for {wish}")
    assert instead in refused.line
    assert list(Path().iterdir()) == []
    with pytest.raises(InputError, match=name):  # so for every program that meets others
        make_accelerator("cpu", "no", {name: value, "WORLD_SIZE": "2"})


def test_a_launcher_on_the_cpu_and_a_job_on_cuda_contradict_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    with pytest.raises(InputError, match=r"^train.device = 'cuda': the launcher asks for the CPU \(ACCELERATE_USE_CPU"):
        make_accelerator("cuda", "no", PLAIN | {"ACCELERATE_USE_CPU": "True"})
    with pytest.raises(InputError, match=r"fp16.*needs a CUDA device"):
        make_accelerator("auto", "fp16", PLAIN | {"ACCELERATE_USE_CPU": "True"})
