"""Configuration: what is read, what is refused and in which words."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.helpers import ROOT
from vae import assemble, config
from vae.config import Config, describe, describe_components, load
from vae.errors import InputError
from vae.families.likelihoods import LIKELIHOODS
from vae.families.posteriors import POSTERIORS
from vae.families.priors import PRIORS
from vae.model import VAE
from vae.networks import DECODERS, ENCODERS
from vae.objectives import OBJECTIVES
from vae.run.contents import named_folder
from vae.schedules import SCHEDULES, LinearWarmup
from vae.training.sinks import SINKS

CONFIGS = sorted([*(ROOT / "configs").glob("*.yaml"), *(ROOT / "configs/papers").glob("*.yaml")])
TABLES = {
    "run.trackers": SINKS,
    "model.encoder": ENCODERS,
    "model.decoder": DECODERS,
    "model.posterior": POSTERIORS,
    "model.prior": PRIORS,
    "model.likelihood": LIKELIHOODS,
    "objective": OBJECTIVES,
    "optim.lr_schedule, objective.beta, objective.capacity": SCHEDULES,
}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_file_builds_and_says_how_to_run_it(path: Path) -> None:
    loaded = load(path)
    assert assemble.build_model(loaded, (1, 28, 28), classes=10).count_parameters() > 0
    assemble.build_objective(loaded)
    header = list(itertools.takewhile(lambda line: line.startswith("# "), path.read_text().splitlines()))
    assert any(line.startswith(f"# python train_ddp.py --config {path.relative_to(ROOT)}") for line in header)
    assert config.warnings(loaded, epochs=loaded.train.epochs) == []


@pytest.mark.parametrize(
    ("file", "parameters"),
    [("mnist", 1_068_820), ("mnist_256", 469_268), ("mnist_32d", 1_091_920), ("article1", 1_149_972)],
)
def test_parameter_counts_are_the_articles(file: str, parameters: int) -> None:
    model = assemble.build_model(load(ROOT / f"configs/{file}.yaml"), (1, 28, 28))
    assert model.count_parameters() == parameters


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["run.name=2024-13-45"], "run.name = '2024-13-45': not valid YAML: month must be in 1..12"),
        (["train.timeout=1e15"], "train.timeout = 1000000000000000.0: must be less than or equal to 1000000000"),
        (["train.threads=3000000000"], "train.threads = 3000000000: must be less than or equal to 65536"),
        (["train=5", "train.epochs=1"], "train = 5: must be a section, with keys and values (in the command line)"),
    ],
)
def test_what_python_or_torch_would_stumble_over_is_one_line(overrides: list[str], line: str) -> None:
    with pytest.raises(InputError) as refused:
        load(None, overrides)
    assert str(refused.value).startswith(line)


def test_a_home_folder_that_nobody_has_is_one_line() -> None:
    with pytest.raises(InputError, match=r"^~nobody-here/x.yaml: there is no such home folder; give the whole path"):
        load("~nobody-here/x.yaml")
    with pytest.raises(InputError, match=r"^~nobody-here/x: there is no such home folder"):
        named_folder(load(None, ["run.dir=~nobody-here/x"]))


def test_a_model_that_does_not_fit_in_memory_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def allocate(*_: object, **__: object) -> VAE:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(assemble, "VAE", allocate)
    with pytest.raises(InputError, match=r"weights do not fit in memory .tried to allocate 9 bytes.; take a smaller"):
        assemble.build_model(load(), (1, 28, 28))


def test_defaults_are_the_second_article_but_for_output_bias_and_clipping() -> None:
    defaults = Config()
    assert (defaults.model.latent_dim, defaults.model.hidden_dim, defaults.train.epochs) == (2, 512, 50)
    assert (defaults.optim.lr, defaults.optim.weight_decay, defaults.objective["name"]) == (1e-3, 1e-2, "ELBO")
    assert defaults.objective["beta"] == {"name": "LinearWarmup", "epochs": 10.0, "start": 0.0, "end": 1.0}
    article = load(ROOT / "configs/mnist.yaml")
    differing = ["model.output_bias: data -> zero", "optim.max_grad_norm: None -> 1.0"]
    assert config.differences(load(), article) == (differing, [])


@pytest.mark.parametrize("name", ["mnist", "mnist_256", "mnist_32d", "article1"])
def test_the_articles_settings_are_written_out(name: str) -> None:
    written = load(ROOT / f"configs/{name}.yaml")
    assert (written.model.output_bias, written.optim.max_grad_norm) == ("zero", 1.0)


def test_a_saved_configuration_reads_back_the_same(tmp_path: Path) -> None:
    before = load(None, ["model.prior=StandardNormal", "objective.beta=4", "optim.max_grad_norm=null"])
    (tmp_path / "config.yaml").write_text(config.to_yaml(before))
    assert load(tmp_path / "config.yaml") == before


def test_command_line_beats_file_beats_defaults(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("train: {epochs: 3, batch_size: 64}\n")
    loaded = load(tmp_path / "a.yaml", ["train.epochs=7"])
    assert (loaded.train.epochs, loaded.train.batch_size, loaded.train.log_every) == (7, 64, 100)


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "0.001", "1.0e-3", ".001"])
def test_numbers_may_be_written_with_an_exponent(text: str) -> None:
    assert load(None, [f"optim.lr={text}"]).optim.lr == 1e-3


def test_naming_a_component_replaces_it_and_a_setting_changes_it() -> None:
    assert load(None, ["objective.beta={name: Constant}"]).objective["beta"] == {"name": "Constant", "value": 1.0}
    assert load(None, ["objective.beta.epochs=3"]).objective["beta"]["epochs"] == 3
    assert load(None, ["objective.beta=2"]).objective["beta"] == {"name": "Constant", "value": 2.0}
    assert load(None, ["model.posterior.scale=exp"]).model.posterior["scale"] == "exp"


REFUSED = {
    "train.epoch=5": ["train.epoch", "train.epochs"],
    "optim.learning_rate=1": ["optim.learning_rate"],
    "epochs=5": ["epochs", "did you mean 'train.epochs'"],
    "nonsense=1": ["nonsense", "--help"],
    "train.epochs=ten": ["train.epochs", "'ten'", "integer"],
    "train.epochs=true": ["train.epochs", "True"],
    "train.batch_size=1.5": ["train.batch_size", "1.5"],
    "train=3": ["train", "keys and values"],
    "model.latent_dim=0": ["model.latent_dim", "0", "1"],
    "model.depth=12": ["model.depth", "12", "hidden_dim"],
    "optim.lr=-1": ["optim.lr", "-1", "greater than 0"],
    "optim.lr=.inf": ["optim.lr", "finite"],
    "optim.betas=[0.9, 1.0]": ["optim.betas.1", "1.0", "less than 1"],
    "optim.betas=[0.9]": ["optim.betas", "2 items"],
    "optim.eps=0": ["optim.eps", "0", "greater than 0"],
    "optim.ema=1": ["optim.ema", "1", "less than 1"],
    "optim.ema=-0.1": ["optim.ema", "-0.1", "greater than or equal to 0"],
    "optim.ema=true": ["optim.ema", "True", "number"],
    "train.patience=1.5": ["train.patience", "1.5", "integer"],
    "optim.decayed=biases": ["optim.decayed", "biases", "matrices"],
    "train.precision=fp8": ["train.precision", "fp8", "bf16"],
    "data.val_size=-1": ["data.val_size", "-1"],
    "model.prior=GaussianMixtures": ["model.prior.name", "GaussianMixtures", "StandardNormal"],
    "model.posterior=DiagonalNorml": ["model.posterior.name", "did you mean 'DiagonalNormal'"],
    "model.posterior.scal=exp": ["model.posterior.scal", "did you mean 'scale'"],
    "model.posterior.scale=sqrt": ["model.posterior.scale", "sqrt", "softplus"],
    "model.likelihood={name: Normal, std: -1}": ["model.likelihood.std", "-1", "greater than 0"],
    "objective.beta.value=1": ["objective.beta.value", "LinearWarmup"],
    "objective.beta=-1": ["objective.beta.value", "-1"],
    "model.prior=[1]": ["model.prior", "[1]", "name"],
    "run.name=a/b": ["run.name", "a/b"],
    "run.name=..": ["run.name", ".."],
    "run.trackers=[tensorbord]": ["run.trackers.0.name", "did you mean 'tensorboard'"],
    "run.trackers=[tensorboard, tensorboard]": ["run.trackers", "name tensorboard once"],
    "run.trackers=tensorbord": ["run.trackers.0.name", "did you mean 'tensorboard'"],
    "run.trackers=5": ["run.trackers", "5", "list"],
    "run.trackers={name: wandb, project: ''}": ["run.trackers.0.project", "''", "1 character", "WandB"],
    "run.trackers=[{name: mlflow, project: it's}]": ["run.trackers.0.project", "it's", "MLflow"],
    "run.trackers=[{name: aim, entity: us}]": ["run.trackers.0.entity", "Aim"],
    "run.name=[": ["run.name", "YAML"],
    "train.epochs": ["train.epochs", "key=value"],
}


@pytest.mark.parametrize("override", REFUSED)
def test_refused_with_one_line_that_names_key_value_and_way_out(override: str) -> None:
    with pytest.raises(InputError) as refusal:
        load(None, [override])
    message = str(refusal.value)
    assert "\n" not in message
    assert all(word in message for word in REFUSED[override]), message


@pytest.mark.parametrize(
    "given", ["wandb", "{name: wandb, project: vae}", "[wandb]", "[{name: wandb}]", "{name: wandb}"]
)
def test_one_tracker_is_a_list_of_one(given: str) -> None:
    assert load(None, [f"run.trackers={given}"]).run.trackers == [{"name": "wandb", "project": "vae"}]


FILES = {
    "train: {epochs: 5": "line",
    "train: {epochs: 5}\ntrain: {epochs: 6}\n": "given twice",
    "- 1\n- 2\n": "keys and values",
    "train: {epoch: 5}\n": "train.epochs",
    "!!python/object/apply:os.system ['true']": "YAML",
}


@pytest.mark.parametrize("text", FILES)
def test_unusable_files_are_named_with_the_reason(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=FILES[text]) as refusal:
        load(path)
    assert "\n" not in str(refusal.value)
    assert "bad.yaml" in str(refusal.value)


def test_missing_or_binary_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nope\.yaml: cannot be read: No such file"):
        load(tmp_path / "nope.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"binary\.yaml: cannot be read: not a text file"):
        load(tmp_path / "binary.yaml")


def test_a_warm_up_longer_than_training_is_a_warning() -> None:
    loaded = load(None, ["optim.lr_schedule={name: LinearWarmup, epochs: 7}", "optim.lr_scaling=sqrt"])
    assert config.warnings(loaded, epochs=5) == [
        "objective.beta: the schedule lasts 10 epochs, longer than the run (5 epochs)",
        "optim.lr_schedule: the schedule lasts 7 epochs, longer than the run (5 epochs)",
    ]
    assert config.warnings(loaded, epochs=4)[-1].startswith("optim.lr_scaling_epochs: the schedule lasts 5 epochs")
    assert config.warnings(loaded, epochs=10) == []


def test_a_patience_that_cannot_end_a_run_is_a_warning() -> None:
    loaded = load(None, ["train.patience=5"])
    assert config.warnings(loaded, epochs=15) == [
        "train.patience = 5: never ends a run of 15 epochs; it counts from epoch 10 on"
    ]
    assert config.warnings(loaded, epochs=16) == []


def test_null_is_no_average() -> None:
    assert load(None, ["optim.ema=null"]) == load()


def test_differences_tell_what_changes_a_run_from_what_does_not() -> None:
    before = load()
    after = load(None, ["train.epochs=60", "run.name=x", "train.log_every=7", "run.seed=3", "model.latent_dim=4"])
    altering, harmless = config.differences(before, after)
    assert altering == ["model.latent_dim: 2 -> 4", "run.seed: 0 -> 3"]
    assert harmless == ["run.name: None -> x", "train.epochs: 50 -> 60", "train.log_every: 100 -> 7"]


def test_help_lists_every_key_with_its_default_and_meaning() -> None:
    lines = describe().splitlines()
    for section, values in Config().model_dump().items():
        for key, value in ({} if section == "objective" else values).items():
            (place,) = (i for i, line in enumerate(lines) if line.startswith(f"  {section}.{key}  ("))
            shown = yaml.safe_load(lines[place].rpartition("; default ")[2].removesuffix(")"))
            assert value | shown == value if isinstance(value, dict) else shown == value
            assert len(lines[place + 1].strip()) > 3
    assert any(line.startswith("  objective  (component; default {name: ELBO, beta: ") for line in lines)


def test_components_are_listed_with_their_settings_under_the_keys_that_choose_them() -> None:
    lines = describe_components().splitlines()
    for key, table in TABLES.items():
        start = lines.index(f"{key}:")
        listed = itertools.takewhile(bool, lines[start:])
        names = [line.partition(":")[0].strip() for line in listed if re.match(r"  \w", line)]
        assert names == list(table)
    assert "    std  (float > 0; default 1.0)" in lines
    assert f"    beta  ({' | '.join(SCHEDULES)}; default 1.0)" in lines


@pytest.mark.parametrize("named", ["objective=ELBO", "objective={name: ELBO}", "objective.name=ELBO"])
def test_to_name_the_default_objective_is_to_have_it_warm_up_included(named: str) -> None:
    assert load(None, [named]).objective == load().objective
    assert load().objective["beta"] == {"name": "LinearWarmup", "epochs": 10.0, "start": 0.0, "end": 1.0}
    assert load(None, [named, "objective.free_bits=0.1"]).objective == load().objective | {"free_bits": 0.1}
    assert load(None, [named, "objective.beta=1"]).objective["beta"] == {"name": "Constant", "value": 1.0}


class Strict(LinearWarmup):
    """A schedule that a table holds beside the project's own."""

    @classmethod
    def conflicts(cls, config: Config) -> Iterator[str]:
        yield f"objective.beta: not for {config.train.epochs} epochs"


@pytest.mark.parametrize("key", ["optim.lr_schedule", "objective.beta"], ids=["a key", "a setting of another piece"])
def test_a_piece_brings_its_own_rule(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCHEDULES, "Strict", Strict)
    with pytest.raises(InputError, match=r"^objective\.beta: not for 3 epochs$"):
        load(None, [f"{key}=Strict", "train.epochs=3"])
