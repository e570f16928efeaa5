"""CUDA as a CPU shows it: the switches of torch that decide on products, devices that are not there, and warnings."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.starts import Job
from vae.config import load
from vae.data.dataset import DataSet, Split
from vae.distributed import launch
from vae.errors import InputError
from vae.evaluation import protocol
from vae.families.likelihoods import Bernoulli


def switches() -> dict[str, Any]:
    """Return what torch, its compiler and its kernels read; torch raises here if two interfaces were mixed."""
    backends = torch.backends
    return {
        "conv": backends.cudnn.conv.fp32_precision == "tf32",  # pyright: ignore[reportAttributeAccessIssue]
        "cudnn": backends.cudnn.allow_tf32,
        "matmul": backends.cuda.matmul.fp32_precision == "tf32",
        "cublas": backends.cuda.matmul.allow_tf32,
        "compiler": torch.get_float32_matmul_precision() != "highest",
        "deterministic": backends.cudnn.deterministic,
        "benchmark": backends.cudnn.benchmark,
    }


@pytest.fixture(autouse=True)
def leaving() -> Iterator[None]:
    yield
    launch.leave()
    launch.set_products(tf32=False)


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("tf32", [False, True])
def test_an_accelerator_comes_with_the_products_that_were_asked_for(before: bool, tf32: bool) -> None:
    launch.set_products(tf32=before)  # of another accelerator in this process
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, True
    launch.make_accelerator("cpu", "no", {}, tf32=tf32)
    rounded = dict.fromkeys(("conv", "cudnn", "matmul", "cublas", "compiler"), tf32)
    assert switches() == rounded | {"deterministic": True, "benchmark": False}


@pytest.mark.parametrize("asked", [[], ["train.tf32=true"]])
def test_a_run_sets_them_and_says_that_a_cpu_has_no_tf32(job: Job, small: Path, asked: list[str]) -> None:
    done = job(f"data.name={small}", "run.dir=r", "train.min_active=0", "objective.beta=1", "--dry-run", *asked)
    assert done.code == 0
    assert done.err == len(asked) * "warning: train.tf32: changes nothing on a CPU, which has no TF32\n"
    assert switches()["conv"] is bool(asked)


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp64"])
def test_tf32_is_refused_with_a_precision_whose_products_it_does_not_round(precision: str) -> None:
    load(None, ["train.tf32=true"])
    named = rf"^train\.tf32 = true: rounds .* 'fp32', not those of '{precision}'; set precision=fp32, or tf32=false$"
    with pytest.raises(InputError, match=named):
        load(None, ["train.tf32=true", f"train.precision={precision}"])


def test_a_protocol_says_which_products() -> None:
    part = Split(torch.zeros(2, 1, 4, 4, dtype=torch.uint8))
    data = DataSet("none", part, part)
    how = [protocol(data, "none", Bernoulli((1, 4, 4)), seed=0, split="test", tf32=tf32) for tf32 in (False, True)]
    assert [each.pop("tf32") for each in how] == [False, True]
    assert how[0] == how[1]


@pytest.mark.parametrize(
    ("count", "place", "problem"),
    [
        (1, {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}, "has 1 CUDA device for 2 processes"),
        (2, {"LOCAL_RANK": "2"}, "has 2 CUDA devices and this is the process of LOCAL_RANK = 2"),  # mpirun's
    ],
)
def test_two_processes_never_get_one_device(
    monkeypatch: pytest.MonkeyPatch, count: int, place: dict[str, str], problem: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    rank = {"WORLD_SIZE": "4", "RANK": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    with pytest.raises(InputError, match=rf"^train\.device = 'auto': this machine {problem}; start fewer, or set"):
        launch.make_accelerator("auto", "no", rank | place)


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("TensorFloat32 tensor cores for float32 matrix multiplication available but not enabled.", UserWarning),
        ("CUDA libdevice not found at /usr/local/cuda; using Triton's bundled libdevice which may", UserWarning),
        ("`torch.distributed.all_gather_into_tensor` is deprecated. Please use `all_gather_single`", FutureWarning),
    ],
)
def test_a_user_is_not_warned_of_what_torch_and_accelerate_do_to_each_other(message: str, kind: type[Warning]) -> None:
    launch.make_accelerator("cpu", "no", {})
    warnings.warn(message, kind, stacklevel=1)  # in tests an error
    with pytest.raises(kind):
        warnings.warn(f"Something else: {message}", kind, stacklevel=1)
