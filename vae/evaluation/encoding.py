"""Dimensionality reduction: images -> codes."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vae.data.dataset import Split
from vae.evaluation import chunks, evaluating, images_of, labels_for
from vae.families.codes import Quantized
from vae.model import VAE


@dataclass(frozen=True)
class Codes:
    """Codes of N images, float32, on the CPU.

    Attributes:
        mean: E[z|x], (N, D).
        std: of q(z|x), dimension by dimension, (N, D); None: the posterior has no closed form for it.
        labels: (N,), int64, if the data have them.
        codes: (N, P), int64, where z is a sequence of codes.
    """

    mean: Tensor
    std: Tensor | None
    labels: Tensor | None
    codes: Tensor | None = None

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what a .npz holds: `mean`, and where there are any `std`, `labels` and `codes`."""
        parts = {"mean": self.mean, "std": self.std, "labels": self.labels, "codes": self.codes}
        return {name: part.numpy() for name, part in parts.items() if part is not None}

    def plane(self) -> tuple[Tensor, list[float]]:
        """Return the means in a plane, (N, 2), and the share of their variance that each of its axes holds.

        With more than two dimensions the axes are the first two principal components; with one, the second is 0.
        """
        centred = (self.mean - self.mean.mean(0)).double()
        total = centred.square().sum().clamp(min=torch.finfo(torch.float64).tiny)
        if centred.shape[1] > 2:
            _, _, directions = torch.linalg.svd(centred, full_matrices=False)
            points = centred @ directions[:2].T
            return points.float(), (points.square().sum(0) / total).tolist()
        points = torch.nn.functional.pad(self.mean, (0, 2 - centred.shape[1]))
        shares = torch.nn.functional.pad(centred.square().sum(0) / total, (0, 2 - centred.shape[1]))
        return points, shares.tolist()


def encode(model: VAE, part: Split) -> Codes:
    """Return the codes of the images of a part of the data.

    Args:
        model: unwrapped, on any device.
        part: images (N, C, H, W), uint8 or floating point in [0, 1].
    """
    means, stds, codes = [], [], []
    with evaluating(model):
        rows_of_all = list(chunks(slice(0, len(part))))
        for rows in tqdm(rows_of_all, desc="encoding", unit="chunk", disable=None, leave=False):
            x = images_of(model, part, rows)
            zeros = x.new_zeros(len(x), model.noise_dim)
            q = model.infer(x, zeros, labels_for(model, part, rows))[0].q
            means.append(q.mean.float().cpu())
            if isinstance(q, Quantized):
                codes.append(q.codes.cpu())
            try:
                stds.append(q.stddev.float().cpu())
            except NotImplementedError:
                continue
    std = torch.cat(stds) if len(stds) == len(means) else None
    return Codes(torch.cat(means), std, part.labels, torch.cat(codes) if codes else None)
