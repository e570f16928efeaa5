"""A small convolutional classifier, in whose features samples are measured."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae.bars import Bar
from vae.data import randomness
from vae.data.batches import to_unit_interval
from vae.data.dataset import Split

FEATURES = 64  # of an image: the layer before the last
EPOCHS = 3
BATCH = 100
LEARNING_RATE = 3e-3  # at first; falls to 0 in a straight line
CHUNK = 1000  # images in one pass


class Classifier(nn.Module):
    """Two convolutions, each with a maximum over 2 x 2 pixels, and two linear layers.

    Args:
        image_shape: (C, H, W).
        classes: their number.
    """

    def __init__(self, image_shape: tuple[int, int, int], classes: int):
        super().__init__()
        channels, height, width = image_shape
        self.body = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True),
            nn.Flatten(), nn.Linear(32 * -(-height // 4) * -(-width // 4), FEATURES), nn.ReLU(),
        )  # fmt: skip
        self.last = nn.Linear(FEATURES, classes)

    def features(self, x: Tensor) -> Tensor:
        """Return (B, FEATURES) for images (B, C, H, W) in [0, 1]."""
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes) for images (B, C, H, W) in [0, 1]."""
        return self.last(self.features(x))


def train(part: Split, classes: int, *, seed: int, epochs: int = EPOCHS) -> Classifier:
    """Return a classifier trained on labelled images; the same for one machine and number of threads.

    Args:
        part: images and labels (N,).
        classes: number of classes of the labels.
        seed: of the initial weights and the order of the images.
        epochs: passes over the images.
    """
    assert part.labels is not None
    _, C, H, W = part.images.shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(randomness.torch_seed(seed, "classifier/weights"))
        classifier = Classifier((C, H, W), classes)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=LEARNING_RATE)
    steps = epochs * -(-len(part) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    with Bar("training the classifier", steps, "step") as bar:
        for epoch in range(epochs):
            for rows in randomness.permutation(len(part), seed, "classifier/order", epoch).split(BATCH):
                logits = classifier(to_unit_interval(part.images[rows], torch.float32))
                optimizer.zero_grad()
                F.cross_entropy(logits, part.labels[rows]).backward()
                optimizer.step()
                schedule.step()
                bar.advance()
    return classifier.eval()


@torch.no_grad()
def look(classifier: Classifier, images: Tensor, *, chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
    """Return features (N, FEATURES) and probabilities of classes (N, classes) of images, float64.

    Args:
        classifier: in evaluation mode.
        images: (N, C, H, W), uint8 or floating point in [0, 1].
        chunk: images in one pass.
    """
    parts = []
    for some in images.split(chunk):
        features = classifier.features(to_unit_interval(some, torch.float32))
        parts.append((features.double(), classifier.last(features).double().softmax(-1)))
    features, probabilities = (torch.cat(each) for each in zip(*parts, strict=True))
    return features, probabilities
