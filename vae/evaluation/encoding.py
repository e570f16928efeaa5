"""Codes of images: E[z|x] and the standard deviations of q(z|x), for all images of a part of the data."""

import contextlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vae.bars import following
from vae.data.dataset import Split
from vae.evaluation.passes import chunks, evaluating, images_of, labels_for
from vae.families.codes import Quantized
from vae.model import VAE


@dataclass(frozen=True)
class Codes:
    """Codes of N images, float32, on the CPU.

    Attributes:
        mean: E[z|x], (N, D).
        std: standard deviation of q(z|x) in each dimension, (N, D); None: it has no closed form.
        labels: (N,), int64, if the data have them.
        codes: (N, P), int64, where z is a sequence of codes.
        z: one draw of q(z|x) for each image, (N, D), where noise was given.
    """

    mean: Tensor
    std: Tensor | None = None
    labels: Tensor | None = None
    codes: Tensor | None = None
    z: Tensor | None = None

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of a .npz: `mean`, and those of `std`, `labels` and `codes` that there are."""
        parts = {"mean": self.mean, "std": self.std, "labels": self.labels, "codes": self.codes}
        return {name: part.numpy() for name, part in parts.items() if part is not None}

    def plane(self) -> tuple[Tensor, list[float]]:
        """Return the means in a plane, (N, 2), and the share of the variance along each of its axes.

        With more than two dimensions the axes are the first two principal components. Otherwise they are the
        dimensions, a missing one 0, and there are no shares.
        """
        dimensions = self.mean.shape[1]
        if dimensions <= 2:
            return torch.nn.functional.pad(self.mean, (0, 2 - dimensions)), []
        centred = (self.mean - self.mean.mean(0)).double()
        _, _, directions = torch.linalg.svd(centred, full_matrices=False)
        points = centred @ directions[:2].T
        total = centred.square().sum().clamp(min=torch.finfo(torch.float64).tiny)  # 0 of a collapsed model
        return points.float(), (points.square().sum(0) / total).tolist()


def encode(model: VAE, part: Split, noise: Tensor | None = None) -> Codes:
    """Return the codes of the images of a part of the data.

    Args:
        model: unwrapped, on any device.
        part: images (N, C, H, W), uint8 or floating point in [0, 1].
        noise: standard normal (N, noise_dim) that determines a draw z ~ q(z|x) of each image; None: no draws. Of
            several stochastic layers, `mean` then depends on the draws of the others, whose noise is 0 otherwise.
    """
    found: dict[str, list[Tensor]] = {"mean": [], "std": [], "codes": [], "z": []}
    with evaluating(model):
        rows_of_all = list(chunks(slice(0, len(part)), most=model.most_at_once))
        for rows in following(rows_of_all, "encoding", "chunk", delay=1):
            x = images_of(model, part, rows)
            own = x.new_zeros(len(x), model.noise_dim) if noise is None else noise[rows].to(x)
            layer = model.infer(x, own, labels_for(model, part, rows))[0]
            found["mean"].append(layer.q.mean.float().cpu())
            with contextlib.suppress(NotImplementedError):
                found["std"].append(layer.q.stddev.float().cpu())
            if isinstance(layer.q, Quantized):
                found["codes"].append(layer.q.codes.cpu())
            if noise is not None:
                found["z"].append(layer.z.float().cpu())
    return Codes(labels=part.labels, **{name: torch.cat(parts) for name, parts in found.items() if parts})
