"""A cache of trained classifiers beside the runs: one for each data set."""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from vae.data.dataset import DataSet
from vae.errors import InputError
from vae.evaluation.quality.classifier import Classifier, look, train
from vae.files import replacing
from vae.run.checkpoint import sha256_of

CLASSIFIERS = "classifiers"  # folder beside those of the runs
SEED = 0  # one classifier for all: distances in the features of two are not compared


@dataclass(frozen=True)
class Trained:
    """A trained classifier, its accuracy on the test set, and its file."""

    classifier: Classifier
    accuracy: float
    file: Path

    @property
    def sha256(self) -> str:
        """The sha256 of the file, which holds weights and accuracy."""
        return sha256_of(self.file)


def classifier_for(data: DataSet, folder: Path) -> Trained:
    """Return the classifier of a data set; it is trained if the cache has none.

    Args:
        data: all of the training set, grey as its file has it, with labels.
        folder: of the cache.

    Raises:
        InputError: there are no labels to train on, or the classifier's file cannot be read or written.
    """
    labels = [part.labels for part in (data.train, data.test) if part.labels is not None]
    if len(labels) < 2:
        raise InputError(f"{data.name}: has no labels, and the classifier that looks at samples is trained on them")
    if data.classes < 2 or min(int(each.min()) for each in labels) < 0:
        raise InputError(f"{data.name}: a classifier needs labels 0, 1, ... of two classes or more")
    size, classes = "x".join(map(str, data.image_shape)), zlib.crc32(labels[0].numpy().tobytes())
    file = folder / f"{data.name}-{size}-{data.train.fingerprint}-{classes:08x}-{SEED}.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{data.name}.lock"):  # several commands train it once
            if not file.exists():
                _train(data, file)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror}; copy the run to where it can be") from None
    return _load(data, file)


def _train(data: DataSet, file: Path) -> None:
    classifier = train(data.train, data.classes, seed=SEED)
    _, probabilities = look(classifier, data.test.images)
    assert data.test.labels is not None
    accuracy = (probabilities.argmax(1) == data.test.labels).double().mean().item()
    with replacing(file) as partial:
        # one entry: safetensors writes several in random order, and protocols hold the file's sha256
        save_file(classifier.state_dict(), partial, {"accuracy": json.dumps(accuracy)})


def _load(data: DataSet, file: Path) -> Trained:
    classifier = Classifier(data.image_shape, data.classes)
    try:
        with safe_open(file, "pt") as opened:
            accuracy = float(opened.metadata()["accuracy"])
            classifier.load_state_dict({name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError, TypeError):
        raise InputError(f"{file}: damaged, or of another version; delete it to have it made again") from None
    return Trained(classifier.eval().requires_grad_(False), accuracy, file)
