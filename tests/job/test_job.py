"""The whole job, from the command line to the files it leaves, on real MNIST; one process, two and three."""

import json
import math
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.helpers import DATA, ROOT
from tests.helpers.runs import events, largest_difference, rows, scalars, weights
from tests.helpers.starts import ACCELERATE, JOB, SMALL, Job, Program, arguments, launch, ranks, run, together
from vae import __main__ as cli
from vae.assemble import reading_of
from vae.config import load
from vae.data import sources
from vae.data.randomness import generator
from vae.distributed import launch as launching
from vae.errors import CrowdedWarning
from vae.model import VAE
from vae.run import checkpoint

FIGURES = {
    "reconstructions", "samples", "loss_curves", "gradient_norm", "latent_scatter", "latent_histogram",
    "latent_marginals", "latent_plane", "latent_use", "interpolation",
}  # fmt: skip


# --- one process ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def finished_once(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short finished run, with a checkpoint of each epoch."""
    base = tmp_path_factory.mktemp("finished")
    settings = [f"data.name={small}", "run.name=short", "run.figures=true", "train.checkpoint_every=epoch", *SMALL]
    done = launch(1, *settings, cwd=base, env={"OMP_NUM_THREADS": "2"})
    assert done.code == 0, done.err
    return base / "runs" / "short"


@pytest.fixture
def finished(job: Job, finished_once: Path) -> Path:
    """The folder of a short finished run, to be changed at will; `run.name=short` in the job's working directory."""
    return shutil.copytree(finished_once, Path("runs/short").absolute())


def test_a_run_leaves_everything_the_interface_promises(finished: Path, small: Path) -> None:
    assert load(finished / "config.yaml").model.hidden_dim == 32
    train = [row for row in rows(finished) if row["split"] == "train"]
    test = [row for row in rows(finished) if row["split"] == "test"]
    assert [row["step"] for row in train] == [5, 10, 15, 20, 25, 30, 32]
    assert [row["step"] for row in test] == [16, 32]
    keys = {"split", "step", "epoch", "loss", "reconstruction", "kl", "beta", "lr", "grad_norm", "images_per_second"}
    assert all(keys <= row.keys() for row in train)
    assert all(row["loss"] == pytest.approx(row["reconstruction"] + row["kl"], rel=1e-6) for row in test)
    assert [row["epoch"] for row in test] == [1, 2]
    assert {path.stem for path in (finished / "figures").iterdir()} == FIGURES
    assert [path.name for path in sorted((finished / "checkpoints").iterdir())] == ["step-00000016", "step-00000032"]
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["parameters"] == sum(tensor.numel() for tensor in weights(finished).values())
    assert (summary["world_size"], summary["device"], summary["precision"]) == (1, "cpu", "fp32")
    assert (summary["epochs"], summary["steps"], summary["engine"]) == (2, 32, "eager")
    assert summary["train_seconds"] > 0
    assert summary["images_per_second"] == pytest.approx(2000 / summary["train_seconds"])
    assert summary["startup_seconds"] > 0
    for purpose in ("evaluation", "checkpoint", "logging"):
        assert 0 < summary[f"{purpose}_seconds"] < 60
    assert summary["logging_seconds"] < summary["train_seconds"]
    assert 200 < summary["peak_memory_mb"] < 1500
    assert summary["versions"]["torch"] == torch.__version__
    assert {key: summary["test"][key] for key in ("loss", "kl")} == {key: test[-1][key] for key in ("loss", "kl")}
    assert summary["test"]["examples"] == 130
    assert summary["test"]["reconstruction_mean_z"] < summary["test"]["reconstruction"]
    assert summary["test"]["protocol"]["normalised"] is False  # grey pixels under a Bernoulli


def test_steps_are_traced_and_the_most_expensive_operations_named(job: Job, small: Path) -> None:
    done = job(f"data.name={small}", "run.name=p", *SMALL, "train.profile=10")
    assert done.code == 0, done.err
    assert "profile of 10 steps, CPU time of the operations themselves:" in done.out
    shown = [line.split() for line in done.out.splitlines() if "ms a step" in line]
    assert len(shown) == 10
    calls = {line[-1]: float(line[5]) for line in shown}
    assert calls["aten::addmm"] == 6  # the linear layers, forward
    (trace,) = Path("runs/p/profile").glob("*.pt.trace.json")
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"aten::addmm", "ProfilerStep#5", "ProfilerStep#14"} <= names


def test_a_profile_of_a_run_that_is_too_short_says_so(job: Job, small: Path) -> None:
    done = job(f"data.name={small}", "run.name=p", *SMALL, "train.max_steps=3", "train.profile=10")
    assert done.code == 0, done.err
    assert "profile: nothing traced; the run ended within its first 5 calls of the engine" in done.out


def test_tensorboard_has_the_tags_once_for_each_step(finished: Path) -> None:
    log = scalars(finished)
    for name in ("Loss/Train", "Loss/Train/BCE", "Loss/Train/KLD", "KL/beta", "GradNorm/Train"):
        assert [step for step, _ in log[name]] == [5, 10, 15, 20, 25, 30, 32], name
    for name in ("Loss/Test", "Loss/Test/BCE", "Loss/Test/KLD"):
        assert [step for step, _ in log[name]] == [16, 32], name
    for row in (row for row in rows(finished) if row["split"] == "train"):
        assert dict(log["Loss/Train/KLD"])[row["step"]] == pytest.approx(row["kl"], rel=1e-6)
    images = events(finished)
    assert set(images.Tags()["images"]) == {"Test/Reconstructions", "Test/Originals", "Test/Samples"}
    first, last = images.Images("Test/Originals")
    assert first.encoded_image_string == last.encoded_image_string
    first, last = images.Images("Test/Samples")
    assert first.encoded_image_string != last.encoded_image_string


def cross_entropy(model: VAE, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """-log p(x|z) of one image (C, H, W), by the definition, in double precision."""
    with torch.no_grad():
        p = model.decoder(z[None].to(next(model.parameters()))).double().sigmoid()[0]
    x = x.double()
    return -(x * p.log() + (1 - x) * (1 - p).log()).sum()


def test_training_metrics_are_means_over_the_examples_of_the_interval(job: Job, small: Path) -> None:
    """With a learning rate of next to nothing, an epoch's mean can be computed by hand; the last batch has 40 of 64."""
    frozen = ["optim.lr=1e-30", "optim.weight_decay=0", "objective.beta=0.5", "train.log_every=1000", "train.epochs=1"]
    assert job(f"data.name={small}", "run.dir=frozen", *SMALL[:2], *frozen).code == 0
    model = VAE.from_pretrained("frozen/model")
    images = sources.load(str(small), "").train.images.float() / 255
    with torch.no_grad():
        output = model(images, torch.zeros(len(images), 2))
    row = rows(Path("frozen"))[0]
    loc, scale = output.latents[0].q.mean.double(), output.latents[0].q.stddev.double()
    exact_kl = 0.5 * (loc.square() + scale.square() - 1 - 2 * scale.log()).sum(1)
    assert row["kl"] == pytest.approx(exact_kl.mean().item(), rel=1e-5)
    # noise belongs to the position in the epoch's order
    order = generator(0, "order").permutation(1000)
    eps = torch.from_numpy(generator(0, "noise").standard_normal((1000, 2), dtype=np.float32))
    by_hand = [cross_entropy(model, images[i], loc[i] + scale[i] * e).item() for i, e in zip(order, eps, strict=True)]
    assert row["reconstruction"] == pytest.approx(np.mean(by_hand), rel=1e-5)
    assert row["loss"] == pytest.approx(row["reconstruction"] + 0.5 * row["kl"], rel=1e-6)


def test_an_output_bias_from_data_is_that_of_the_training_images_alone(job: Job, small: Path) -> None:
    """Next to nothing is learnt; 300 images are held out, and the grey values of the others count, not one draw."""
    frozen = [
        "optim.lr=1e-30",
        "optim.weight_decay=0",
        "train.max_steps=1",
        "data.val_size=300",
        "data.binarize=static",
    ]
    assert job(f"data.name={small}", "run.dir=biased", *SMALL[:2], *frozen, "model.output_bias=data").code == 0
    images = sources.load(str(small), "").hold_out(300).train.images
    mean = (images.double() / 255).mean(0).clamp(0.001, 0.999).flatten()
    bias = VAE.from_pretrained("biased/model").decoder.output_layer.bias
    torch.testing.assert_close(bias, torch.logit(mean).float(), rtol=1e-6, atol=1e-7)
    assert load(Path("biased/config.yaml")).model.output_bias == "data"


def test_evaluation_is_the_exact_mean_over_real_examples(finished: Path, small: Path) -> None:
    """By hand, one example at a time, in double precision."""
    model = VAE.from_pretrained(finished / "model").double()
    images = sources.load(str(small), "").test.images.double() / 255
    noise = torch.from_numpy(generator(0, "evaluate/test").standard_normal((130, 2), dtype=np.float32))
    kl, mean_z, sampled = [], [], []
    for x, eps in zip(images, noise, strict=True):
        with torch.no_grad():
            q = model.encode(x[None])
        kl.append(0.5 * (q.mean**2 + q.variance - 1 - q.variance.log()).sum().item())
        mean_z.append(cross_entropy(model, x, q.mean[0]).item())
        sampled.append(cross_entropy(model, x, q.mean[0] + q.stddev[0] * eps).item())
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["test"]["kl"] == pytest.approx(np.mean(kl), rel=1e-6)
    assert summary["test"]["reconstruction"] == pytest.approx(np.mean(sampled), rel=1e-6)
    assert summary["test"]["loss"] == pytest.approx(np.mean(kl) + np.mean(sampled), rel=1e-6)
    assert summary["test"]["reconstruction_mean_z"] == pytest.approx(np.mean(mean_z), rel=1e-6)


def test_the_model_loads_in_a_fresh_process(finished: Path) -> None:
    code = (
        "import torch; from vae.model import VAE\n"
        f"model = VAE.from_pretrained({str(finished / 'model')!r})\n"
        "print(model.sample(noise=torch.zeros(1, 2)).sum().item())"
    )
    done = run("-c", code, real=True)
    here = VAE.from_pretrained(finished / "model").sample(noise=torch.zeros(1, 2)).sum().item()
    assert float(done.out) == pytest.approx(here, rel=1e-6)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_finished_run_started_again_says_so_and_changes_nothing(job: Job, finished: Path, small: Path) -> None:
    before = snapshot(finished)
    again = job(f"data.name={small}", "run.name=short", *SMALL)
    assert again.code == 0
    assert "is finished" in again.out
    assert snapshot(finished) == before


def test_a_finished_run_can_be_extended(job: Job, finished: Path, small: Path) -> None:
    as_before = ["run.name=short", "run.figures=true", "train.checkpoint_every=epoch"]
    assert job(f"data.name={small}", *as_before, *SMALL, "train.epochs=3").code == 0
    assert job(f"data.name={small}", "run.name=straight", *SMALL, "train.epochs=3").code == 0
    assert largest_difference(finished, Path("runs/straight")) == 0
    assert load(finished / "config.yaml").train.epochs == 3
    starts = [json.loads(line) for line in (finished / "starts.jsonl").read_text().splitlines()]
    assert [(start["step"], start["changed"]) for start in starts] == [(0, []), (32, ["train.epochs: 2 -> 3"])]


def test_without_a_name_the_folder_is_called_after_file_and_time(job: Job, small: Path) -> None:
    config = ROOT / "configs" / "debug.yaml"
    assert job("--config", config, f"data.name={small}", "train.max_steps=1").code == 0
    (folder,) = Path("runs").iterdir()
    stem, day, clock = folder.name.split("-")
    assert (stem, len(day), len(clock)) == ("debug", 8, 6)


def test_dry_run_prints_the_resolved_configuration_and_writes_nothing(job: Job, small: Path) -> None:
    shown = job("--dry-run", f"data.name={small}", "run.name=x", "model.latent_dim=7")
    assert shown.code == 0
    assert not Path("runs").exists()
    document, _, plan = shown.out.partition("\nwould train in ")
    assert yaml.safe_load(document)["model"]["latent_dim"] == 7
    assert plan.startswith("runs/x: ")
    assert "400 steps of 128 images" in plan
    assert plan.endswith(
        "\ndata: 1,000 training and 130 test images, 1x28x28, uint8, 10 classes; images `images`, labels `labels`\n"
    )


@pytest.mark.parametrize(
    ("precision", "has_bf16", "warned"), [("bf16", False, 1), ("bf16", True, 0), ("fp32", False, 0)]
)
def test_one_line_warns_of_bf16_on_a_cpu_that_has_no_instructions_for_it(
    job: Job, small: Path, monkeypatch: pytest.MonkeyPatch, precision: str, has_bf16: bool, warned: int
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx2": True, "avx512_bf16": has_bf16})
    own = ["run.dir=r", "train.device=cpu", "objective.beta=1", "train.min_active=0"]  # of which nothing else is said
    settings = [f"data.name={small}", f"train.precision={precision}", *own]
    line = "warning: train.precision: bf16 is slower than fp32 on this CPU, which has no instructions for it\n"
    assert job(*settings, "--dry-run").err == warned * line
    done = job(*settings, *SMALL, "train.epochs=1")
    assert (done.code, done.err) == (0, warned * line)


def test_help_lists_the_keys(capsys: pytest.CaptureFixture[str]) -> None:
    import train_ddp

    with pytest.raises(SystemExit) as done:
        train_ddp.main(["--help"])
    assert done.value.code == 0
    out = capsys.readouterr().out
    assert all(key in out for key in ("train.batch_size", "global", "model.posterior", "LinearWarmup", "--resume"))


@pytest.mark.parametrize(
    "settings",
    [
        ["train.precision=bf16"],
        ["train.precision=fp64"],
        ["model.posterior=FullNormal", "model.latent_dim=5"],
        ["model.posterior.scale=exp", "model.center_input=true"],
        ["model.likelihood={name: Normal, std: 0.5}"],
        ["data.binarize=dynamic"],
        ["data.binarize=static", "optim.max_grad_norm=1.0"],
        ["optim.lr_schedule={name: LinearWarmup, epochs: 1}", "objective.beta=4"],
        ["train.eval_every=0", "train.checkpoint_every=7"],
    ],
    ids=lambda settings: " ".join(settings),
)
def test_every_setting_trains(job: Job, small: Path, settings: list[str]) -> None:
    done = job(f"data.name={small}", "run.dir=r", *SMALL, "train.epochs=4", *settings)
    assert done.code == 0, done.err
    train = [row for row in rows(Path("r")) if row["split"] == "train"]
    assert train[-1]["reconstruction"] < train[0]["reconstruction"]
    test = json.loads(Path("r/summary.json").read_text())["test"]
    assert test["protocol"]["normalised"] is _normalised(settings)
    if any("binarize" in setting for setting in settings):
        assert test["protocol"]["measure"] == "probability of 0/1 pixels"
        assert test["bits_per_dim"] == pytest.approx(test["loss"] / 784 / math.log(2))
    else:
        assert test["bits_per_dim"] is None


def _normalised(settings: list[str]) -> bool:
    return any("binarize" in setting or "likelihood" in setting for setting in settings)


@pytest.mark.parametrize("shape", [(60, 9, 3), (60, 3, 8, 8), (60, 2, 8, 8), (60, 5, 6, 6)], ids=str)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_any_image_size_and_channel_count_trains(job: Job, tmp_path: Path, shape: tuple[int, ...], dtype: type) -> None:
    images = np.random.default_rng(0).integers(0, 256, shape)
    images = images.astype(np.uint8) if dtype is np.uint8 else (images / 255).astype(dtype)
    np.savez(tmp_path / "odd.npz", images=images)
    settings = ["run.dir=r", "model.hidden_dim=8", "train.batch_size=16", "train.epochs=2", "run.figures=true"]
    done = job("data.name=odd.npz", *settings)
    assert done.code == 0, done.err
    assert {path.stem for path in Path("r/figures").iterdir()} == FIGURES
    assert VAE.from_pretrained("r/model").image_shape == (shape[1:] if len(shape) == 4 else (1, *shape[1:]))


def test_the_best_checkpoint_is_chosen_on_validation_and_kept(job: Job, small: Path) -> None:
    settings = ["data.val_size=100", "train.epochs=8", "optim.lr=0.05", "train.checkpoint_every=15"]
    assert job(f"data.name={small}", "run.dir=r", "model.hidden_dim=128", "train.batch_size=64", *settings).code == 0
    validation = {row["step"]: row["loss"] for row in rows(Path("r")) if row["split"] == "val"}
    best = json.loads(Path("r/summary.json").read_text())["best"]
    assert best["step"] == min(validation, key=lambda step: validation[step])
    kept = Path("r/checkpoints") / best["checkpoint"]
    assert checkpoint.find_problem(kept) is None
    assert VAE.from_pretrained(kept).latent_dim == 2
    assert len(list(Path("r/checkpoints").iterdir())) in (2, 3)


# --- several processes ------------------------------------------------------------------------------------------------


def test_accelerate_launch_with_the_shipped_file_starts_two_processes_in_the_precision_asked_for(
    tmp_path: Path, small: Path
) -> None:
    settings = arguments(f"data.name={small}", f"run.dir={tmp_path / 'r'}", *SMALL)
    done = run(*ACCELERATE, "--mixed_precision", "bf16", JOB, *settings, real=True)
    assert done.code == 0, done.err
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert (summary["world_size"], summary["precision"]) == (2, "bf16")


# --- resume -----------------------------------------------------------------------------------------------------------


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(job: Job, finished: Path, small: Path) -> None:
    newest = finished / "checkpoints" / "step-00000032" / "state.pt"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    before = weights(finished)
    (finished / "summary.json").unlink()
    again = job(f"data.name={small}", "run.name=short", *SMALL)
    assert again.code == 0, again.err
    assert "step-00000032: skipped: state.pt is damaged" in again.err
    assert "from step 16" in again.out
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(finished).items())
    assert [row["step"] for row in rows(finished)] == [5, 10, 15, 16, 20, 25, 30, 32, 32]


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["train.epoch=3"], ["train.epoch", "train.epochs"]),
        (["model.latent_dim=0"], ["model.latent_dim", "0"]),
        (["--config", "nowhere.yaml"], ["nowhere.yaml"]),
        (["--resume", "perhaps"], ["perhaps", "auto"]),
        (["--resum=never", "--nonsense"], ["--nonsense"]),
        (["data.name=MNISTT"], ["MNISTT", "MNIST"]),
        (["data.name=nowhere.npz"], ["nowhere.npz"]),
        (["data.val_size=60000"], ["data.val_size", "60000"]),
        (["train.precision=fp16", "train.device=cpu"], ["train.precision", "fp16", "CUDA"]),
        (["run.dir=/proc/nowhere/run"], ["/proc/nowhere/run", "run.dir"]),
        (["run.dir=a_file/run"], ["a_file/run", "run.dir"]),
        (["--resume", "must"], ["--resume must", "holds no run"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_refused_input_is_one_line_exit_code_2_and_no_folder(job: Job, settings: list[str], words: list[str]) -> None:
    Path("a_file").write_text("in the way")
    refused = job(*settings)
    assert refused.code == 2
    assert all(word in refused.line for word in words), refused.line
    assert refused.line.startswith("train_ddp.py: ")
    assert [path.name for path in Path().iterdir()] == ["a_file"]


def test_a_run_with_other_settings_is_refused_with_the_differences(job: Job, finished: Path, small: Path) -> None:
    before = snapshot(finished)
    refused = job(f"data.name={small}", "run.name=short", *SMALL, "model.latent_dim=3", "optim.lr=0.1")
    assert refused.code == 2
    assert "model.latent_dim: 2 -> 3; optim.lr: 0.001 -> 0.1" in refused.line
    assert snapshot(finished) == before


@pytest.mark.parametrize(
    "setting",
    [
        "run.seed=1",
        "data.binarize=dynamic",
        "data.val_size=10",
        "model.depth=1",
        "objective.beta=2",
        "train.batch_size=32",
        "train.precision=bf16",
        "train.exact=2",
        "optim.weight_decay=0",
        "optim.max_grad_norm=2.0",
        "optim.ema=0.9",
    ],
)
def test_every_setting_that_changes_a_run_is_refused_for_a_run_that_has_begun(
    job: Job, finished: Path, small: Path, setting: str
) -> None:
    before = snapshot(finished)
    refused = job(f"data.name={small}", "run.name=short", *SMALL, setting, "train.epochs=3")
    assert refused.code == 2
    assert setting.partition("=")[0] in refused.line
    assert " -> " in refused.line
    assert snapshot(finished) == before


def test_a_checkpoint_of_a_different_model_is_refused_with_what_differs(job: Job, finished: Path, small: Path) -> None:
    text = (finished / "config.yaml").read_text()
    (finished / "config.yaml").write_text(text.replace("hidden_dim: 32", "hidden_dim: 16"))
    before = snapshot(finished)
    refused = job(f"data.name={small}", "run.name=short", *SMALL, "model.hidden_dim=16", "train.epochs=3")
    assert refused.code == 2
    assert "different model: decoder.layers.0.bias (16,) float32, here (8,) float32" in refused.line
    assert snapshot(finished) == before


def test_a_limit_before_the_last_checkpoint_is_refused(job: Job, finished: Path, small: Path) -> None:
    (finished / "summary.json").unlink()
    before = snapshot(finished)
    refused = job(f"data.name={small}", "run.name=short", *SMALL, "train.max_steps=20")
    assert refused.code == 2
    assert "end at step 20" in refused.line
    assert "ask for more than 32 steps" in refused.line
    assert snapshot(finished) == before


def test_other_pixels_under_the_same_name_are_refused(job: Job, finished: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", images=np.zeros((40, 5, 5), np.uint8))
    settings = ["data.name=data.npz", "run.dir=r", *SMALL]
    assert job(*settings).code == 0
    np.savez(tmp_path / "data.npz", images=np.ones((40, 5, 5), np.uint8))
    before = snapshot(Path("r"))
    refused = job(*settings, "train.epochs=3")
    assert refused.code == 2
    assert "data.name" in refused.line
    assert snapshot(Path("r")) == before


def test_checkpoints_without_their_configuration_are_not_taken_for_a_new_run(
    job: Job, finished: Path, small: Path
) -> None:
    (finished / "config.yaml").unlink()
    refused = job(f"data.name={small}", "run.name=short", *SMALL)
    assert refused.code == 2
    assert "holds checkpoints but no config.yaml" in refused.line


def test_the_threads_asked_for_are_the_threads_used(job: Job, small: Path) -> None:
    launched = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
    assert "(1 threads each)" in job(f"data.name={small}", "--dry-run", "train.threads=1").out
    code = "import os, sys, train_ddp, torch; train_ddp.main(sys.argv[1:]); print(torch.get_num_threads())"
    done = run("-c", code, *arguments(f"data.name={small}", "--dry-run", "train.threads=2"), env=launched)
    assert done.out.endswith("\n2\n"), done.err


@pytest.mark.parametrize(("wished", "here", "threads"), [("2", "1", 2), ("2", "3", 1), ("many", "1", 3), ("0", "1", 3)])
def test_omp_num_threads_counts_for_one_process_alone(
    monkeypatch: pytest.MonkeyPatch, wished: str, here: str, threads: int
) -> None:
    monkeypatch.setattr("vae.distributed.launch.cores", lambda: frozenset(range(3)))
    assert launching.set_threads(0, {"OMP_NUM_THREADS": wished, "LOCAL_WORLD_SIZE": here}) == threads
    assert launching.set_threads(4, {"OMP_NUM_THREADS": wished, "LOCAL_WORLD_SIZE": here}) == 4


@pytest.mark.parametrize(
    ("settings", "threads"),
    [
        ([], 3),  # 137 million multiply-adds forward
        (["train.batch_size=40"], 1),  # 43 million
        (["train.batch_size=20", "objective={name: IWAE, samples: 50}"], 3),
        (["train.batch_size=20", "model.encoder=ConvEncoder", "model.decoder=ConvDecoder"], 3),
        (["train.exact=3"], 1),
        (["train.batch_size=20", "train.threads=2"], 2),
    ],
)
def test_a_small_step_has_one_thread(
    job: Job, small: Path, monkeypatch: pytest.MonkeyPatch, settings: list[str], threads: int
) -> None:
    monkeypatch.setattr("vae.distributed.launch.cores", lambda: frozenset(range(3)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    said = job(f"data.name={small}", "--dry-run", "train.threads=0", *settings).out
    assert f"1 process on cpu ({threads} threads each)" in said


@pytest.mark.parametrize(
    ("load", "settings", "warned"),
    [(1.6, [], True), (0.4, [], False), (9.0, ["train.threads=1"], False), (9.0, ["model.hidden_dim=64"], False)],
)
def test_a_machine_that_others_keep_busy_is_warned_of(
    job: Job, small: Path, monkeypatch: pytest.MonkeyPatch, load: float, settings: list[str], warned: bool
) -> None:
    monkeypatch.setattr("vae.distributed.launch.cores", lambda: frozenset(range(3)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    own = ["train.device=cpu", "objective.beta=1", "train.min_active=0"]
    said = job(f"data.name={small}", "--dry-run", "train.threads=0", *own, *settings).err
    line = "warning: other programs keep 1.6 of 3 cores busy, and each operation waits for the slowest of 3 threads: "
    assert said == (line + "train.threads=1 may be many times faster\n" if warned else "")


def test_a_command_is_told_of_a_busy_machine_too(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vae.distributed.launch.cores", lambda: frozenset(range(3)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.getloadavg", lambda: (64.0, 0.0, 0.0))
    with warnings.catch_warnings():
        warnings.simplefilter("always", CrowdedWarning)
        assert cli.main(["score", str(finished), "--count", "2", "--samples", "2"]) == 0
    assert "waits for the slowest of 3 threads: OMP_NUM_THREADS=1 may be many times faster\n" in capsys.readouterr().err


def test_a_failing_picture_does_not_fail_the_run(job: Job, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("no ink")

    monkeypatch.setattr("vae.report.draw_figures", fail)
    done = job(f"data.name={small}", "run.dir=r", "run.figures=true", *SMALL)
    assert done.code == 0
    assert "figures not drawn (no ink); again: python -m vae report r" in done.err
    assert Path("r/summary.json").exists()


def test_resume_never_refuses_a_folder_with_a_run(job: Job, finished: Path, small: Path) -> None:
    refused = job("--resume", "never", f"data.name={small}", "run.name=short", *SMALL)
    assert refused.code == 2
    assert "already holds a run" in refused.line


def test_two_jobs_on_one_folder_the_second_is_refused(job: Job, small: Path, tmp_path: Path) -> None:
    settings = [f"data.name={small}", f"run.dir={tmp_path / 'shared'}", "train.epochs=1000", "train.engine=eager"]
    first = Program(JOB, *arguments(*settings))
    first.wait_until((tmp_path / "shared" / "config.yaml").exists)
    refused = job(*settings)
    assert refused.code == 2
    assert "another job is running in this folder" in refused.line


def test_with_two_processes_a_refusal_appears_once(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("in the way")
    for setting, words in (
        ("model.latent_dim=0", "model.latent_dim = 0"),  # found before the process group
        (f"run.dir={tmp_path / 'data' / 'run'}", "cannot be written"),  # found by the main process alone
    ):
        refused = launch(2, setting, cwd=tmp_path)
        assert refused.err.count(words) == 1, refused.err
        assert refused.codes == (2, 2)
        assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_run_that_sees_labels_is_not_continued_with_others(job: Job, small: Path, tmp_path: Path) -> None:
    arrays = dict(np.load(small))
    path = tmp_path / "own.npz"
    for name, sees in (("seen", "true"), ("unseen", "false")):
        np.savez(path, **arrays)
        settings = [f"data.name={path}", f"run.name={name}", *SMALL, f"model.condition={sees}"]
        assert job(*settings, "train.epochs=1").code == 0
        np.savez(path, **arrays | {"labels": (arrays["labels"] + 1) % 10})
        again = job(*settings, "train.epochs=2")
        assert again.code == (2 if sees == "true" else 0), again.err
        if sees == "true":
            assert "data.name: the pixels or labels are not those of runs/seen/checkpoints/step-" in again.line


def test_a_run_starts_from_the_weights_of_another_one_and_goes_on_without_it(
    job: Job, small: Path, tmp_path: Path
) -> None:
    """At a learning rate at which no weight moves, the weights are those of the other run."""
    settings = [f"data.name={small}", *SMALL, "train.eval_every=0"]
    assert job(*settings, "run.name=first", "train.max_steps=3").code == 0
    weights = (tmp_path / "runs/first/model/model.safetensors").read_bytes()
    still = [*settings, "optim.lr=1e-30"]
    for name, source in (("second", "runs/first"), ("third", "runs/first/model")):
        begun = job(*still, f"run.name={name}", f"run.start_from={source}", "train.max_steps=2")
        assert begun.code == 0, begun.err
        assert f", from the weights of {source}\n" in begun.out
        assert (tmp_path / "runs" / name / "model/model.safetensors").read_bytes() == weights
    both = launch(2, *still, "run.name=both", "run.start_from=runs/first", "train.max_steps=2", cwd=tmp_path)
    assert both.code == 0, both.err
    assert (tmp_path / "runs/both/model/model.safetensors").read_bytes() == weights

    wider = job(*still, "run.name=wider", "run.start_from=runs/first", "model.hidden_dim=24")
    assert wider.code == 2
    assert "run.start_from = 'runs/first': runs/first/model: the checkpoint holds a different model: " in wider.line
    shutil.rmtree(tmp_path / "runs/first")
    gone = job(*still, "run.name=gone", "run.start_from=runs/first")
    assert gone.code == 2
    assert "run.start_from = 'runs/first': holds no model.safetensors; must be a finished run" in gone.line
    assert not any((tmp_path / "runs" / name).exists() for name in ("wider", "gone"))
    assert job(*still, "run.name=second", "run.start_from=runs/first", "train.max_steps=4").code == 0
    assert (tmp_path / "runs/second/model/model.safetensors").read_bytes() == weights


def test_ranks_with_unlike_data_are_refused(small: Path, tmp_path: Path) -> None:
    """Each machine has its own copy of a file, of which one is old."""
    arrays = dict(np.load(small))
    words = arguments("data.name=own.npz", f"run.dir={tmp_path / 'run'}")
    started = []
    for place, variables in enumerate(ranks(2)):
        (tmp_path / f"node{place}").mkdir()
        np.savez(tmp_path / f"node{place}" / "own.npz", **arrays | {"images": arrays["images"] // (1 + place)})
        started.append(Program(JOB, *words, env=variables, cwd=tmp_path / f"node{place}"))
    refused = together(started)
    assert refused.codes == (2, 2)
    assert "data.name = 'own.npz': is not the same on all ranks (" in refused.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("variables", [{"LOCAL_RANK": "0"}, {"LOCAL_RANK": "0", "RANK": "0"}], ids=str)
def test_a_local_rank_without_a_launcher_is_refused(variables: dict[str, str], tmp_path: Path) -> None:
    refused = launch(1, cwd=tmp_path, env=variables)
    assert refused.code == 2
    assert "LOCAL_RANK = 0: but " in refused.line
    assert "WORLD_SIZE, MASTER_ADDR, MASTER_PORT not set; start N processes with torchrun" in refused.line


@pytest.mark.parametrize("world_size", ["2", "two"])
def test_a_world_size_without_a_launcher_is_refused(world_size: str, tmp_path: Path) -> None:
    refused = launch(1, cwd=tmp_path, env={"WORLD_SIZE": world_size})
    assert refused.code == 2
    assert f"WORLD_SIZE = {world_size}" in refused.line
    assert not list(tmp_path.iterdir())


def test_the_data_that_ships_is_the_default(tmp_path: Path) -> None:
    assert (DATA / "MNIST" / "raw" / "train-images-idx3-ubyte.gz").exists()
    assert reading_of(load()).root == DATA


# --- faults -----------------------------------------------------------------------------------------------------------


def test_a_fault_stops_the_run_naming_step_term_and_last_good_checkpoint(job: Job, small: Path) -> None:
    assert job(f"data.name={small}", "run.dir=r", *SMALL, "train.epochs=1").code == 0
    good = weights(Path("r"))
    poison = yaml.safe_load(Path("r/config.yaml").read_text())
    poison["optim"]["lr"] = 1e30
    Path("r/config.yaml").write_text(yaml.safe_dump(poison))
    stopped = job(f"data.name={small}", "run.dir=r", *SMALL, "optim.lr=1e30")
    assert stopped.code == 1
    assert stopped.err.strip().splitlines()[-1] == (
        "train_ddp.py: step 17: not finite: reconstruction, kl; last good checkpoint: r/checkpoints/step-00000016"
    )
    newest, _ = checkpoint.newest_valid(Path("r/checkpoints"))
    assert newest is not None
    assert all(torch.equal(good[name], tensor) for name, tensor in load_file(newest / "model.safetensors").items())
