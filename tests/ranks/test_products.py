"""float32 is float32 on CUDA too, unless TF32 is asked for: the switches of torch that decide it, which a CPU shows."""

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
