"""From a configuration to its pieces: the only file that knows both sides."""

import math
from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor

from vae import plugins
from vae.compat import keep_from_ddp
from vae.components import build
from vae.config import Config
from vae.data import randomness
from vae.data.batches import TrainingBatches, count_steps
from vae.data.dataset import DataSet
from vae.data.places import root_of
from vae.data.reading import Reading
from vae.data.sources import load
from vae.engine import Engine
from vae.engine.average import Average
from vae.engine.choice import Choice, choose
from vae.engine.compiler import EngineError
from vae.engine.eager import Eager
from vae.engine.gradients import AllReduced, Exact, Gradients
from vae.engine.ledger import Ledger
from vae.engine.memory import lacks_memory, wanted
from vae.engine.observation import Observation
from vae.engine.static import Static
from vae.engine.update import CompilableAdamW, FusedAdamW, LossScaledAdamW, Settings, Update
from vae.errors import InputError
from vae.families.observing import Observer
from vae.families.posteriors import POSTERIORS
from vae.model import VAE
from vae.networks.options import matrices_of
from vae.objectives import OBJECTIVES, Objective
from vae.schedules import LinearWarmup, ScheduleSpec

DTYPES = {"fp32": torch.float32, "bf16": torch.float32, "fp16": torch.float32, "fp64": torch.float64}
MIXED_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16", "fp64": "no"}

# of a step, forward; 784-200-200-50 on two cores at batch 20, 100, 250 (8, 42 and 106 million): 0.91, 3.03, 7.73 ms by
# one thread, 3.08, 3.29, 6.35 by two
MULTIPLY_ADDS_THAT_REPAY_THREADS = 50_000_000
REFERENCE_BATCH_SIZE = 128  # that optim.lr is meant for, where optim.lr_scaling is used


def reading_of(config: Config) -> Reading:
    """Return how the data set of a configuration is read."""
    data = config.data
    return Reading(
        root=root_of(data.root, data.name),
        images=data.images,
        labels=data.labels,
        channels=data.channels,
        range=None if data.range is None else (data.range[0], data.range[1]),
        image_size=data.image_size,
        binarize="larochelle" if data.binarize == "larochelle" else "none",
    )


def build_data(config: Config, draw: int | None = None) -> DataSet:
    """Return the data set, split, labels hidden and, for evaluation, binarised as configured; raises `InputError`.

    Args:
        config: the run's configuration.
        draw: the seed of the 0/1 pixels; None: run.seed.
    """
    data = load(config.data.name, reading_of(config)).hold_out(config.data.val_size)
    _check_validation(config, data)
    if config.data.labelled:
        data = data.hide_labels(config.data.labelled, config.data.repeat_labelled, config.run.seed)
    if not config.data.is_drawn:
        return data
    return data.binarize_evaluation(config.run.seed if draw is None else draw)


def inputs(config: Config, data: DataSet) -> dict[str, str]:
    """Return a checksum of each input that all ranks must have alike, by its key or option."""
    found = {f"data.name = {config.data.name!r}": data.fingerprint_of(labels=True)}
    found |= {f"--plugin {name}": version for name, version in plugins.versions().items()}
    return found


def _check_validation(config: Config, data: DataSet) -> None:
    """Raise `InputError` if a run is to end by a validation loss without validation data."""
    if config.train.patience and data.val is None:
        raise InputError(
            f"train.patience = {config.train.patience}: ends a run by its validation loss, and data.val_size = 0 holds "
            f"out nothing; set data.val_size={max(1, len(data.train) // 10)}, or patience=0"
        )


def build_model(
    config: Config, image_shape: tuple[int, int, int], classes: int = 0, images: Tensor | None = None
) -> VAE:
    """Return the model with initial weights, by the seed; those that start from data also by the images.

    Args:
        config: the run's configuration.
        image_shape: (C, H, W).
        classes: of the data's labels, 0 if there are none.
        images: of the training set, as the data set has them; None: weights will be loaded, or do not matter.

    Raises:
        InputError: the pieces do not go together, or need labels that are not there.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(randomness.torch_seed(config.run.seed, "weights"))
        try:
            model = VAE(image_shape=image_shape, classes=classes, **config.model.model_dump())
        except ValueError as error:
            raise InputError(f"model: {error}") from None
        except RuntimeError as error:
            if not lacks_memory(error):
                raise
            raise InputError(f"model: its weights do not fit in memory{wanted(error)}; take a smaller model") from None
    model.most_at_once = config.train.micro_batch
    model.to(DTYPES[config.train.precision])
    if images is not None:
        model.start_output_bias(images, binary=config.data.is_drawn)
        model.prior.start(images, config.run.seed)
    return model


def build_objective(config: Config) -> Objective:
    """Return the loss to be minimised."""
    return build(OBJECTIVES, config.objective)


def choose_threads(config: Config) -> int:
    """Return the CPU threads of a process, 0: as many as its cores allow.

    With exact gradients one thread, unless `train.threads` is given: a sum over many numbers depends on how many
    threads share it.
    """
    return config.train.threads or (1 if config.train.exact else 0)


def choose_threads_of_steps(config: Config, model: VAE, batches: TrainingBatches) -> int:
    """Return the CPU threads of a process for the steps of a run, as `choose_threads` does.

    One where linear layers alone make a step, and make so little of it that threads wait for each other longer than
    they work.
    """
    kernels = matrices_of(model)
    examples = batches.rows * math.prod(batches.noise_shape[:-1])  # K draws of an example pass through the decoder
    small = examples * sum(weight.numel() for weight in kernels) < MULTIPLY_ADDS_THAT_REPAY_THREADS
    linear, on_cpu = all(weight.dim() == 2 for weight in kernels), batches.images.device.type == "cpu"
    return choose_threads(config) or (1 if small and linear and on_cpu else 0)


def build_update(config: Config, accelerator: Accelerator, model: VAE, engine: str) -> Update:
    """Return the optimiser update of an engine, for a model that is on the device."""
    parameters = [weight for weight in model.parameters() if weight.requires_grad]
    optim, matrices = config.optim, matrices_of(model)
    decays = [optim.weight_decay if optim.decayed == "all" or weight in matrices else 0.0 for weight in parameters]
    settings = Settings(decays, (optim.betas[0], optim.betas[1]), optim.eps)
    if accelerator.scaler is not None:
        return LossScaledAdamW(accelerator, parameters, optim.max_grad_norm, settings)
    # on CUDA a kernel for all weights together is better than one for each; but of a step of fixed shape it reads the
    # learning rate in float32, too coarse for weights in float64
    slow = accelerator.device.type == "cpu" or parameters[0].dtype == torch.float64
    kind = CompilableAdamW if engine != "eager" and slow else FusedAdamW
    return kind(parameters, optim.max_grad_norm, settings)


def build_average(config: Config, model: VAE) -> Average | None:
    """Return the average of the weights of a model that is on the device, with the same weights on all ranks."""
    return Average(model, decay=config.optim.ema) if config.optim.ema else None


def build_learning_rate(config: Config) -> Callable[[float], float]:
    """Return the learning rate as a function of progress in epochs: lr, its schedule, the factor for the batch size."""
    optim, ratio = config.optim, config.train.batch_size / REFERENCE_BATCH_SIZE
    schedule = ScheduleSpec.build(optim.lr_schedule)
    factor = {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[optim.lr_scaling]
    scaling = LinearWarmup(epochs=optim.lr_scaling_epochs, start=1.0, end=factor)
    return lambda progress: optim.lr * schedule(progress) * scaling(progress)


def build_batches(
    config: Config,
    data: DataSet,
    vae: VAE,
    objective: Objective,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
) -> TrainingBatches:
    """Return this rank's part of each global training batch, resident on `device`, with the noise a model needs.

    Raises:
        InputError: the model needs a label of each image, and some are hidden.
    """
    if vae.needs_labels and data.hides_labels:
        problem = "some images have no label (or -1, hidden), and the model needs all"
        raise InputError(f"{data.name}: {problem}; infer them (model.infer_labels=true), or leave these images out")
    labels = data.train.labels if vae.sees_labels else None
    return TrainingBatches(
        data.train.images.to(device),
        batch_size=config.train.batch_size,
        noise_dim=vae.noise_dim,
        samples=objective.samples,
        labels=None if labels is None else labels.to(device),
        seed=config.run.seed,
        binarize=config.data.binarize,
        dtype=DTYPES[config.train.precision],
        rank=rank,
        world_size=world_size,
    )


def choose_engine(
    config: Config, objective: Objective, batches: TrainingBatches, device: str, world_size: int
) -> Choice:
    """Return the engine for a run, see `choose`; raises `InputError`."""
    train, examples = config.train, len(batches.images)
    _, steps = count_steps(examples, train.batch_size, train.epochs, train.max_steps)
    observes = issubclass(POSTERIORS[config.model.posterior["name"]], Observer)
    return choose(train, device, world_size, steps, across_examples=objective.across_examples, observes=observes)


def build_engine(
    config: Config, accelerator: Accelerator, vae: VAE, objective: Objective, batches: TrainingBatches
) -> Engine:
    """Return the engine that makes the training steps (all ranks); raises `InputError`.

    Args:
        config: the run's configuration.
        accelerator: owns the device, the process group and precision.
        vae: the model, with its initial weights.
        objective: the loss to be minimised.
        batches: this rank's part of each global batch.
    """
    choice = choose_engine(config, objective, batches, accelerator.device.type, accelerator.num_processes)
    vae.to(accelerator.device)

    if choice.name != "eager":
        try:
            return _build_static(config, accelerator, vae, objective, batches, choice)
        except EngineError as error:
            if config.train.engine != "auto":
                raise InputError(f"train.engine = {choice.name!r}: {error}; use eager or auto") from None
            choice = Choice("eager", f"auto: no {choice.name}: {error}", compiles=False)
    return _build_eager(config, accelerator, vae, objective, batches, choice.why)


def _build_static(
    config: Config,
    accelerator: Accelerator,
    vae: VAE,
    objective: Objective,
    batches: TrainingBatches,
    choice: Choice,
) -> Static:
    """Return an engine of whole steps, compiled or captured (all ranks); raises `EngineError`."""
    engine = Static(
        name=choice.name,
        why=choice.why,
        accelerator=accelerator,
        batches=batches,
        objective=objective,
        update=build_update(config, accelerator, vae, choice.name),
        ledger=_build_ledger(config, accelerator, objective),
        learning_rate=build_learning_rate(config),
        average=build_average(config, vae),
        model=vae,
        captured=choice.name == "graph",
        compiles=choice.compiles,
    )
    engine.prepare()
    return engine


def _build_eager(
    config: Config, accelerator: Accelerator, vae: VAE, objective: Objective, batches: TrainingBatches, why: str
) -> Eager:
    observer = vae.posterior if isinstance(vae.posterior, Observer) else None
    gradients = _build_gradients(config, accelerator, vae, objective, batches, observer)
    return Eager(
        name="eager",
        why=why,
        accelerator=accelerator,
        batches=batches,
        objective=objective,
        update=build_update(config, accelerator, vae, "eager"),
        ledger=_build_ledger(config, accelerator, objective),
        learning_rate=build_learning_rate(config),
        average=build_average(config, vae),
        gradients=gradients,
        observation=None if observer is None else Observation(observer, accelerator, batches),
    )


def _build_ledger(config: Config, accelerator: Accelerator, objective: Objective) -> Ledger:
    skips = config.train.on_nonfinite == "skip"
    return Ledger(accelerator, skip_nonfinite=skips, extra=objective.extra, extra_of=objective.extra_of)


def _build_gradients(
    config: Config,
    accelerator: Accelerator,
    vae: VAE,
    objective: Objective,
    batches: TrainingBatches,
    observer: Observer | None,
) -> Gradients:
    # all ranks change them alike; DDP would send them in each forward pass, which not every rank makes equally often
    keep_from_ddp(vae, [name for name, _ in vae.named_buffers()])
    # told to place it, Accelerate does not import torch.distributed.tensor to find out whether it may
    model = accelerator.prepare(vae, device_placement=[True])
    if not config.train.exact:
        most = config.train.micro_batch
        return AllReduced(accelerator, model, objective, len(batches.images), observer, micro_batch=most)
    settings = {"shards": config.train.exact, "micro_batch": config.train.micro_batch}
    return Exact(accelerator, model, objective, observer=observer, **settings)
