"""Settings that are right one by one and mean nothing together: rules of the pieces, and of a few plain keys."""

from collections.abc import Iterator

from vae.components import Chosen, piece_of, pieces_of
from vae.config.help import keys
from vae.config.schema import Config


def conflicts(config: Config) -> Iterator[str]:
    """Yield one line for each combination without a meaning: the key, its value and the way out."""
    for table, name in chosen(config):
        yield from table[name].conflicts(config)
    yield from _hidden_labels(config)
    yield from _published_draw(config)
    yield from _tf32(config)
    yield from _patience(config)


def chosen(config: Config) -> Iterator[Chosen]:
    """Yield table and name of each piece that a complete configuration names, by the settings of others too."""
    values = config.model_dump()
    for key, field in keys():
        section, _, name = key.partition(".")
        value = values[section][name] if name else values[section]
        if marker := piece_of(field.metadata):
            yield from marker.chosen(value)
        elif marker := pieces_of(field.annotation):
            for spec in value:
                yield from marker.chosen(spec)


def _hidden_labels(config: Config) -> Iterator[str]:
    """Yield a line if labels are hidden from a model that infers none, or repeated to no effect."""
    data = config.data
    if data.labelled and not config.model.infer_labels:
        yield (
            f"data.labelled = {data.labelled}: the model does nothing with images whose label is hidden; set "
            "model.infer_labels=true model.condition=true objective=SemiSupervised, or labelled=0"
        )
    if data.repeat_labelled > 1 and not data.labelled:
        yield f"data.repeat_labelled = {data.repeat_labelled}: no label is hidden; set data.labelled, or 1"
    if data.repeat_labelled > 1 and data.binarize == "static":
        yield (
            f"data.repeat_labelled = {data.repeat_labelled}: each repeat would have 0/1 pixels of its own, with "
            "data.binarize = 'static' they are drawn once; take dynamic, or 1"
        )


def _published_draw(config: Config) -> Iterator[str]:
    """Yield a line if the files of a published draw lack what is asked of them."""
    data, model = config.data, config.model
    if data.binarize != "larochelle":
        return
    key = f"data.binarize = {data.binarize!r}"
    if data.name != "MNIST":
        yield f"{key}: a draw of MNIST, not of data.name = {data.name!r}; take static"
    if data.val_size:
        problem = "has a validation set of its own (10,000 images beside 50,000 for training)"
        yield f"data.val_size = {data.val_size}: {key} {problem}; leave it at 0"
    priors = [name for table, name in chosen(config) if getattr(table[name], "needs_labels", False)]
    asking = [f"model.prior.name = {name!r}" for name in priors]
    asking += ["model.condition = True"] * model.condition
    asking += [f"data.labelled = {data.labelled}"] * (data.labelled > 0)
    if asking:
        yield f"{asking[0]}: needs labels, and the files of {key} have none; take static"


def _tf32(config: Config) -> Iterator[str]:
    """Yield a line if TF32 is asked for with another precision than the one whose products it rounds."""
    precision = config.train.precision
    if config.train.tf32 and precision != "fp32":
        yield (
            f"train.tf32 = true: rounds the products of train.precision = 'fp32', not those of {precision!r}; "
            "set precision=fp32, or tf32=false"
        )


def _patience(config: Config) -> Iterator[str]:
    """Yield a line if a run is to end early by evaluations that are not made."""
    if config.train.patience and not config.train.eval_every:
        yield (
            f"train.patience = {config.train.patience}: ends a run by its evaluations, and train.eval_every = 0 makes "
            "one at the end alone; set train.eval_every=1, or patience=0"
        )
