"""The schema: every key with its type, range, default and meaning.

Torch is not imported for it: the tables of components are named here, and looked up when a component is completed.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from vae.components import PieceOf, Spec, SpecError
from vae.schedules import ScheduleSpec

ObjectiveSpec = PieceOf("vae.objectives:OBJECTIVES")


class Section(BaseModel):
    """A part of the configuration: frozen, no unknown keys, no silent conversion of types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=True)


def _each_once(specs: list[Spec]) -> list[Spec]:
    names = [spec["name"] if isinstance(spec, dict) and "name" in spec else spec for spec in specs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise SpecError([("", f" = {names!r}: name {twice} once")])
    return specs


def _listed(specs: Any) -> Any:
    return [specs] if isinstance(specs, (str, dict)) else specs


def _zero_for_none(value: Any) -> Any:
    return 0.0 if value is None else value


def _steps_or_epoch(value: Any) -> Any:
    if value != "epoch" and not (type(value) is int and value >= 0):
        raise SpecError([("", f" = {value!r}: must be a number of steps, 0 or more, or epoch")])
    return value


def _ascending(limits: list[float] | None) -> list[float] | None:
    if limits is not None and (len(limits) != 2 or not limits[0] < limits[1]):
        raise SpecError([("", f" = {limits!r}: must be [low, high], low < high")])
    return limits


class RunConfig(Section):
    """The run: where it is kept, and the seed everything random derives from."""

    name: str | None = Field(
        default=None,
        pattern=r"^[^/\\.\x00-\x1f][^/\\\x00-\x1f]*$",
        description="the run's folder is runs/NAME; without it, file name and time",
    )
    dir: str | None = Field(default=None, min_length=1, description="the run's folder, instead of runs/NAME")
    seed: int = Field(
        default=0, ge=0, description="permutations, noise, binarisation and initial weights derive from it"
    )
    start_from: str | None = Field(
        default=None,
        min_length=1,
        description="a finished run of the same model (or a folder with model.safetensors) whose weights are the "
        "initial ones; null: the seed draws them",
    )
    figures: bool = Field(
        default=True, description="draw its pictures at the end, a few seconds; python -m vae report draws them too"
    )
    trackers: Annotated[
        list[Annotated[Spec, PieceOf("vae.training.sinks:SINKS")]],
        BeforeValidator(_listed),
        AfterValidator(_each_once),
    ] = Field(
        default=[{"name": "tensorboard"}],
        description="where curves and pictures go, beside metrics.jsonl: tensorboard, wandb, mlflow, ...; []: nowhere",
    )


class DataConfig(Section):
    """The data set."""

    name: str = Field(
        default="MNIST",
        min_length=1,
        description="MNIST, CIFAR10, CelebA, ... (docs/data.md has them all) or the path of an .npz, an .npy, or a "
        "folder of pictures",
    )
    root: str | None = Field(
        default=None,
        min_length=1,
        description="folder that holds (or receives) the data sets; null: the project's own data/",
    )
    images: str | None = Field(
        default=None,
        min_length=1,
        description="name of the array of (training) images in a file; null: by the usual names",
    )
    labels: str | None = Field(
        default=None,
        min_length=1,
        description="name of the array of (training) labels in a file; null: by the usual names",
    )
    channels: Literal["auto", "first", "last"] = Field(
        default="auto", description="axis of the channels in an array of images: (N, C, H, W) or (N, H, W, C)"
    )
    range: Annotated[list[float] | None, AfterValidator(_ascending)] = Field(
        default=None,
        description="pixel values of an array that become 0 and 1, e.g. [-1, 1]; null: 0 and 255 of integers, 0 and 1 "
        "of floating point",
    )
    image_size: int | None = Field(
        default=None, ge=1, description="height and width that pictures of a folder get, from their centre"
    )
    val_size: int = Field(
        default=0, ge=0, description="examples held out of the training set; the best checkpoint is chosen on them"
    )
    binarize: Literal["none", "dynamic", "static", "larochelle"] = Field(
        default="none",
        description="grey pixels -> 0/1 with probability equal to the pixel: never, anew each epoch, once; larochelle: "
        "the published draw of MNIST, from its three files binarized_mnist_*.amat below data.root",
    )
    labelled: int = Field(
        default=0,
        ge=0,
        description="training images that keep their label, as many of each class, drawn by the seed; those of the "
        "others are hidden; 0: all keep theirs",
    )
    repeat_labelled: int = Field(
        default=1, ge=1, description="how often an epoch has each of these images; the others it has once"
    )

    @property
    def is_binary(self) -> bool:
        """True if pixels are made 0 or 1, whatever they are in the data set."""
        return self.binarize != "none"

    @property
    def is_drawn(self) -> bool:
        """True if 0/1 pixels are drawn from grey ones, by a seed; those of a published draw are read."""
        return self.binarize in ("dynamic", "static")


class ModelConfig(Section):
    """The model; see `vae.model.VAE`."""

    latent_dim: int = Field(default=2, ge=1, description="dimensions of z")
    hidden_dim: int = Field(
        default=512,
        ge=1,
        description="width of the hidden layer next to the image; the next is half as wide, ...; in a residual network "
        "of all, in a convolutional one of the linear layer",
    )
    depth: int = Field(
        default=2,
        ge=1,
        description="hidden layers in each network, residual blocks, or convolutions that halve the image",
    )
    center_input: bool = Field(default=False, description="the encoder sees x - 0.5; the likelihood always sees x")
    condition: bool = Field(default=False, description="encoder and decoder see the label: a conditional VAE")
    infer_labels: bool = Field(
        default=False,
        description="labels that are not given are inferred by a network like the encoder, q(y|x), and marginalised",
    )
    output_bias: Literal["zero", "data"] = Field(
        default="data",
        description="the decoder's last bias at the start; zero: at or near 0, as its initialization has it; data: "
        "where p(x|z) fits each pixel of the training images (of a convolution: each channel), for a Bernoulli the "
        "logit of its mean, so that the mean image need not be learned",
    )
    hierarchy: Annotated[Spec, PieceOf("vae.families.hierarchy:HIERARCHIES")] = Field(
        default={"name": "Flat"}, description="stochastic layers above z"
    )
    encoder: Annotated[Spec, PieceOf("vae.networks:ENCODERS")] = Field(
        default={"name": "MLPEncoder"}, description="image -> numbers of q(z|x)"
    )
    decoder: Annotated[Spec, PieceOf("vae.networks:DECODERS")] = Field(
        default={"name": "MLPDecoder"}, description="z -> numbers of p(x|z)"
    )
    posterior: Annotated[Spec, PieceOf("vae.families.posteriors:POSTERIORS")] = Field(
        default={"name": "DiagonalNormal"}, description="family of q(z|x)"
    )
    prior: Annotated[Spec, PieceOf("vae.families.priors:PRIORS")] = Field(
        default={"name": "StandardNormal"}, description="family of p(z)"
    )
    likelihood: Annotated[Spec, PieceOf("vae.families.likelihoods:LIKELIHOODS")] = Field(
        default={"name": "Bernoulli"}, description="family of p(x|z)"
    )


class OptimConfig(Section):
    """The optimiser: AdamW (Loshchilov & Hutter 2019)."""

    lr: float = Field(default=1e-3, gt=0, description="learning rate")
    lr_schedule: Annotated[Spec, ScheduleSpec] = Field(
        default={"name": "Constant"}, description="factor on lr over epochs, a schedule or a number"
    )
    lr_scaling: Literal["none", "linear", "sqrt"] = Field(
        default="none", description="factor on lr for the batch size: 1, batch_size / 128, or the square root of that"
    )
    lr_scaling_epochs: float = Field(
        default=5.0, gt=0, description="epochs over which that factor is reached, linearly from 1 (Goyal et al. 2017)"
    )
    betas: list[Annotated[float, Field(ge=0, lt=1)]] = Field(
        default=[0.9, 0.999],
        min_length=2,
        max_length=2,
        description="decay a step of the moving averages of gradients and of their squares",
    )
    eps: float = Field(default=1e-8, gt=0, description="added to the root of the averaged squares")
    weight_decay: float = Field(default=1e-2, ge=0, description="decoupled weight decay")
    decayed: Literal["all", "matrices"] = Field(
        default="all",
        description="weights that decay: all; or matrices and kernels of linear and convolutional layers alone, not "
        "biases, normalisation, embeddings, a likelihood's std and a prior's means, scales and pseudo-inputs",
    )
    max_grad_norm: float | None = Field(
        default=None,
        gt=0,
        description="the global gradient is clipped to this norm; null: never. Nats of a whole image have gradients of "
        "10 to 1,000, so that 1.0 clips each of them to the same length; AdamW's steps are bounded without it",
    )
    ema: Annotated[float, BeforeValidator(_zero_for_none)] = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="decay a step of the exponential moving average of the weights, e.g. 0.999, which is then what is "
        "evaluated, reported and saved as the model, with the raw weights beside it; 0 or null: no average",
    )


class TrainConfig(Section):
    """The training run."""

    epochs: int = Field(default=50, ge=1, description="passes over the training set")
    max_steps: int = Field(default=0, ge=0, description="stop after so many steps (optimiser updates); 0: no limit")
    batch_size: int = Field(default=128, ge=1, description="examples a step over all processes together (global)")
    micro_batch: int = Field(
        default=0,
        ge=0,
        description="the most examples that a process takes at once, for batches that do not fit in memory: the "
        "gradients of such parts of a batch are added up; 0: its whole share",
    )
    precision: Literal["fp32", "bf16", "fp16", "fp64"] = Field(
        default="fp32",
        description="bf16, fp16: autocast over fp32 weights (fp16 needs CUDA); fp64: for verification; left alone: "
        "what `accelerate launch` asks for",
    )
    tf32: bool = Field(
        default=False,
        description="with fp32 on CUDA: products and convolutions in TF32, 10 bits of mantissa instead of 23; faster",
    )
    engine: Literal["auto", "eager", "compile", "graph"] = Field(
        default="auto",
        description="how a step is run: eager; compile: by compiled functions; graph: whole steps in CUDA graphs; "
        "auto: graph on CUDA where possible; on a CPU compile for long runs of one process, else eager",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto: CUDA where there is a device, else the CPU"
    )
    threads: int = Field(
        default=0,
        ge=0,
        le=65536,
        description="CPU threads of each process; 0: cores divided by processes on a machine, or 1 for small steps",
    )
    log_every: int = Field(default=100, ge=1, description="steps between two lines of training metrics")
    eval_every: int = Field(
        default=1, ge=0, description="epochs between two evaluations on the test set; 0: only at the end"
    )
    checkpoint_every: Annotated[int | Literal["epoch"], BeforeValidator(_steps_or_epoch)] = Field(
        default=0,
        description="steps between two checkpoints; epoch: one each epoch; 0: after an epoch, one in 30 seconds",
    )
    patience: int = Field(
        default=0,
        ge=0,
        description="epochs without a lower validation loss after which the run ends early, counted once the "
        "objective's schedules have ended; 0: never",
    )
    min_active: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="share of the latent dimensions that should be active after an epoch and the warm-up; fewer are "
        "warned of as posterior collapse; 0: never",
    )
    exact: int = Field(
        default=0,
        ge=0,
        description="S: gradients of S fixed parts of a batch, summed in a fixed order: bitwise the same weights for "
        "any number of processes that divides S; 0: off",
    )
    timeout: float = Field(
        default=600.0,
        gt=0,
        le=1e9,
        description="seconds without progress after which several processes end, naming the missing",
    )
    profile: int = Field(
        default=0,
        ge=0,
        description="calls of the engine (steps; in a graph, replays) to trace into the run's folder, slowly; 0: none",
    )
    on_nonfinite: Literal["stop", "skip"] = Field(
        default="stop", description="a non-finite loss or gradient: stop all processes, or skip the update and count it"
    )


class Config(Section):
    """Everything that determines a run. Saved with it as config.yaml."""

    run: RunConfig = Field(default={}, validate_default=True)
    data: DataConfig = Field(default={}, validate_default=True)
    model: ModelConfig = Field(default={}, validate_default=True)
    objective: Annotated[Spec, ObjectiveSpec] = Field(  # the ELBO's own defaults, spelt out for --help and key=value
        default={"name": "ELBO", "beta": {"name": "LinearWarmup", "epochs": 10}}, description="what is minimised"
    )
    optim: OptimConfig = Field(default={}, validate_default=True)
    train: TrainConfig = Field(default={}, validate_default=True)


# Keys that may differ when a run is continued: they do not change what it computes, or only extend it.
HARMLESS = {
    "run.name", "run.dir", "run.figures", "run.trackers", "data.root", "train.epochs", "train.max_steps",
    "train.engine", "train.device", "train.threads", "train.log_every", "train.eval_every", "train.checkpoint_every",
    "train.patience",
    "train.min_active", "train.on_nonfinite", "train.timeout", "train.profile",
    "train.micro_batch",
}  # fmt: skip
# Of these, keys in which runs may differ and be of one setting still; how long a run trains belongs to its setting.
NOT_A_SETTING = HARMLESS - {"train.epochs", "train.max_steps", "train.patience"}
