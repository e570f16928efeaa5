"""Config -> pieces: the only file that knows both sides."""

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import nn
from torch.optim import AdamW

from vae.components import InputError
from vae.config import Config, TrainConfig
from vae.data import randomness
from vae.data.batches import TrainingBatches
from vae.data.sources import DataSet, load
from vae.engine import Engine
from vae.gradients import AllReduced, Exact, Gradients
from vae.model import VAE
from vae.networks import Shape
from vae.objectives import Objective, ObjectiveSpec
from vae.schedules import ScheduleSpec

DTYPES = {"fp32": torch.float32, "bf16": torch.float32, "fp16": torch.float32, "fp64": torch.float64}
MIXED_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16", "fp64": "no"}


def build_data(config: Config) -> DataSet:
    """Return the data set, split and, for evaluation, binarised as configured; raises `InputError`."""
    data = load(config.data.name, config.data.root).hold_out(config.data.val_size)
    return data if config.data.binarize == "none" else data.binarize_evaluation(config.run.seed)


def build_model(config: Config, image_shape: Shape) -> VAE:
    """Return the model with initial weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(randomness.torch_seed(config.run.seed, "weights"))
        model = VAE(image_shape=image_shape, **config.model.model_dump())
    return model.to(DTYPES[config.train.precision])


def build_objective(config: Config) -> Objective:
    """Return what is minimised."""
    return ObjectiveSpec.build(config.objective)


def choose_threads(config: Config) -> int:
    """Return the CPU threads a process is to take, 0: as many as its cores allow.

    With exact gradients one, unless told otherwise: sums over many numbers depend on how many threads share them.
    """
    return config.train.threads or (1 if config.train.exact else 0)


def build_optimizer(config: Config, model: VAE) -> AdamW:
    """Return AdamW over all weights; fused, so that one flag on the device can skip an update."""
    return AdamW(model.parameters(), lr=config.optim.lr, weight_decay=config.optim.weight_decay, fused=True)


def build_batches(config: Config, data: DataSet, device: torch.device, rank: int, world_size: int) -> TrainingBatches:
    """Return this rank's part of each global training batch, resident on `device`."""
    return TrainingBatches(
        data.train.images.to(device),
        batch_size=config.train.batch_size,
        latent_dim=config.model.latent_dim,
        seed=config.run.seed,
        binarize=config.data.binarize,
        dtype=DTYPES[config.train.precision],
        rank=rank,
        world_size=world_size,
    )


def build_engine(
    config: Config, accelerator: Accelerator, model: nn.Module, objective: Objective, optimizer: AcceleratedOptimizer
) -> Engine:
    """Return what runs the training steps of a prepared model and optimizer; raises `InputError`."""
    return Engine(
        accelerator,
        _build_gradients(config.train, accelerator, model, objective),
        optimizer,
        lr=config.optim.lr,
        lr_schedule=ScheduleSpec.build(config.optim.lr_schedule),
        max_grad_norm=config.optim.max_grad_norm,
        skip_nonfinite=config.train.on_nonfinite == "skip",
    )


def _build_gradients(train: TrainConfig, accelerator: Accelerator, model: nn.Module, objective: Objective) -> Gradients:
    if not train.exact:
        return AllReduced(accelerator, model, objective)
    if train.exact % accelerator.num_processes:
        raise InputError(
            f"train.exact = {train.exact}: must be a multiple of the number of processes ({accelerator.num_processes})"
        )
    if train.precision == "fp16":
        raise InputError(f"train.exact = {train.exact}: not with train.precision=fp16; use bf16, fp32 or fp64")
    return Exact(accelerator, model, objective, shards=train.exact)
