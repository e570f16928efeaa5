"""One process, two, three and four train the same model: to rounding, and with train.exact to the bit."""

import hashlib
import json
from pathlib import Path

import pytest

from tests.helpers.runs import largest_difference, rows
from tests.helpers.starts import launch

# half as wide as the default: a step in float64 on four processes of two cores takes long
FLOAT64 = ["train.precision=fp64", "train.max_steps=150", "train.log_every=50", "model.hidden_dim=256", "optim.ema=0.9"]
FLOAT64 += ["optim.max_grad_norm=1.0"]  # which clips in every step


def train(processes: int, folder: Path, *settings: str) -> Path:
    done = launch(processes, *settings, f"run.dir={folder}")
    assert done.code == 0, done.err
    assert f"{processes} process" in done.out
    assert done.out.count("done: ") == 1, "only the main process speaks"
    return folder


@pytest.fixture(scope="module")
def float64(small: Path) -> list[str]:
    """150 steps on a thousand real digits."""
    return [f"data.name={small}", *FLOAT64]


@pytest.fixture(scope="module")
def by_processes(float64: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The same run on 1, 2, 3 and 4 processes."""
    base = tmp_path_factory.mktemp("processes")
    return {processes: train(processes, base / str(processes), *float64) for processes in (1, 2, 3, 4)}


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_several_processes_train_the_same_model_as_one(by_processes: dict[int, Path], processes: int) -> None:
    assert largest_difference(by_processes[1], by_processes[processes]) < 1e-12
    logged = (rows(by_processes[count], timeless=True) for count in (1, processes))
    for alone, together in zip(*logged, strict=True):
        assert together.pop("split") == alone.pop("split")
        assert together == pytest.approx(alone, rel=1e-10)


def test_a_compiled_loss_and_one_flat_all_reduce_train_the_same_model_as_ddp(
    by_processes: dict[int, Path], float64: list[str], tmp_path: Path
) -> None:
    """150 steps on two processes; between them the run is stopped and continued."""
    for steps in (70, 150):
        train(2, tmp_path, *float64, "train.engine=compile", f"train.max_steps={steps}")
    assert largest_difference(by_processes[2], tmp_path) < 1e-12


def test_real_digits_are_learnt(by_processes: dict[int, Path]) -> None:
    """The mean image, at which the decoder starts, costs 206 nats."""
    first, *_, last = [row for row in rows(by_processes[1]) if row["split"] == "train"]
    assert last["reconstruction"] < 180 < first["reconstruction"]


@pytest.fixture(scope="module")
def forty_steps(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The default model on real MNIST, 40 steps in float32."""
    base = tmp_path_factory.mktemp("forty")
    return {processes: train(processes, base / str(processes), "train.max_steps=40") for processes in (1, 2, 3, 4)}


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_in_float32_forty_steps_agree_to_rounding(forty_steps: dict[int, Path], processes: int) -> None:
    """AdamW moves a weight by up to 1e-3 a step, however small its gradient is, and so enlarges rounding."""
    assert largest_difference(forty_steps[1], forty_steps[processes]) < 1e-4


def test_evaluation_is_the_same_at_any_world_size_in_float32(tmp_path: Path) -> None:
    settings = ["train.max_steps=1", "optim.lr=1e-30", "optim.weight_decay=0"]
    runs = [train(processes, tmp_path / str(processes), *settings) for processes in (1, 2, 3)]
    alone, *others = [json.loads((run / "summary.json").read_text())["test"] for run in runs]
    for together in others:
        for name in ("loss", "reconstruction", "kl", "reconstruction_mean_z"):
            assert abs(alone[name] - together[name]) < 1e-4
        assert together["examples"] == 10_000


def test_a_world_larger_than_the_last_batch_trains_alike(tmp_path: Path, small: Path) -> None:
    """1000 examples in batches of 333 leave one: two of three ranks have none of their own."""
    settings = [f"data.name={small}", "model.hidden_dim=32", "train.batch_size=333", "train.epochs=3"]
    for processes in (1, 3):
        train(processes, tmp_path / str(processes), *settings, "train.precision=fp64")
    assert largest_difference(tmp_path / "1", tmp_path / "3") < 1e-12


# --- train.exact ------------------------------------------------------------------------------------------------------


def sha256(folder: Path) -> str:
    files = sorted((folder / "model").rglob("model.safetensors"))  # raw weights beside averages among them
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


@pytest.mark.parametrize("setting", ["train.precision=fp32", "train.precision=bf16"])
def test_with_exact_gradients_the_weights_are_bitwise_the_same(setting: str, tmp_path: Path, small: Path) -> None:
    """Real MNIST in fp32; in bf16, which is slow on many a CPU, a smaller model on less of it."""
    lighter = [f"data.name={small}", "model.hidden_dim=128"] if "bf16" in setting else ["model.hidden_dim=256"]
    settings = ["train.exact=4", "train.max_steps=100", setting, *lighter]
    hashes = {n: sha256(train(n, tmp_path / str(n), *settings)) for n in (1, 2, 4)}
    assert len(set(hashes.values())) == 1, hashes


def test_exact_gradients_with_an_odd_number_of_parts_and_empty_ones(tmp_path: Path, small: Path) -> None:
    """Six parts on 1, 2, 3 processes; the last batch of an epoch has one example, so that five are empty."""
    settings = [f"data.name={small}", "model.hidden_dim=32", "train.batch_size=333", "train.epochs=3", "train.exact=6"]
    hashes = {n: sha256(train(n, tmp_path / str(n), *settings)) for n in (1, 2, 3)}
    assert len(set(hashes.values())) == 1, hashes


def test_an_exact_run_moved_to_other_numbers_of_processes_is_bitwise_the_undisturbed_one(
    tmp_path: Path, small: Path
) -> None:
    settings = [f"data.name={small}", "model.hidden_dim=32", "train.batch_size=64", "train.exact=4"]
    settings += ["optim.decayed=matrices", "optim.betas=[0.8, 0.99]", "optim.eps=1e-6"]
    settings += ["optim.max_grad_norm=1.0", "optim.ema=0.9"]
    whole = train(1, tmp_path / "whole", *settings, "train.max_steps=90")
    for processes, steps in ((4, 21), (1, 50), (2, 90)):
        train(processes, tmp_path / "moved", *settings, f"train.max_steps={steps}")
    assert sha256(whole) == sha256(tmp_path / "moved")


def test_exact_parts_that_the_processes_cannot_share_are_refused(tmp_path: Path) -> None:
    refused = launch(2, "train.exact=3", f"run.dir={tmp_path / 'r'}", cwd=tmp_path)
    assert "train.exact = 3: must be a multiple of the number of processes (2)" in refused.err
    assert refused.codes == (2, 2)
    assert not (tmp_path / "r").exists()
