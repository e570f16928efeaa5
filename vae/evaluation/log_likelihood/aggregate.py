"""The aggregate posterior q(z) = 1/N sum over j of q(z|x_j): mutual information of x and z, distance from p(z)."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.distributions import Distribution

from vae.data.batches import share
from vae.data.dataset import Split
from vae.distributed.peers import Ranks
from vae.evaluation.log_likelihood.budget import largest_batch
from vae.evaluation.log_likelihood.progress import Progress
from vae.evaluation.log_likelihood.weights import Draws
from vae.evaluation.passes import chunks, evaluating, images_of, labels_for, mean_and_error
from vae.model import VAE

DRAWS = 5000  # M, draws of z from q(z), at most: each is evaluated under the posteriors of all images


@dataclass(frozen=True)
class Aggregate:
    """Estimates of how the KL is made up: on average KL(q(z|x) || p(z)) = I(x; z) + KL(q(z) || p(z)).

    The decomposition of Hoffman & Johnson 2016 (ELBO surgery), with x one of the N images, each as likely. Then
    q(z) = 1/N sum over j of q(z|x_j) is exact, and both are means over M draws z_i ~ q(z|x_i), without a bias. As
    estimates for the distribution that the images are a sample of they have one: the I(x; z) of N images is at most
    log N, close to which it stays wherever z tells the images apart, and `marginal_kl` is too high by what it lacks.

    Attributes:
        mutual_information: I(x; z), mean of log q(z_i|x_i) - log q(z_i), nats.
        mutual_information_error: its standard error over the draws.
        marginal_kl: KL(q(z) || p(z)), mean of log q(z_i) - log p(z_i), nats; None: p depends on labels.
        marginal_kl_error: its standard error over the draws.
        limit: log N, nats.
        draws: M, of images spread evenly over the N.
    """

    mutual_information: float
    mutual_information_error: float | None
    marginal_kl: float | None
    marginal_kl_error: float | None
    limit: float
    draws: int


def aggregate(
    accelerator: Accelerator, model: VAE, part: Split, *, seed: int, split: str, progress: Progress
) -> Aggregate | None:
    """Return how the KL of a model is made up (all ranks); None: q(z|x) has no density at the z of another image.

    It has none with several stochastic layers, whose q depend on each other's z, nor where labels are inferred: there
    q(z|x) is a mixture over labels.

    Args:
        accelerator: the process group.
        model: the unwrapped model, on the device.
        part: N images, the same on every rank.
        seed, split: of the noise; z_i is the first draw that `importance.estimate` has for image i.
        progress: is advanced after each chunk.
    """
    if model.classifier is not None:
        return None
    rank, world_size = accelerator.process_index, accelerator.num_processes
    count = min(DRAWS, len(part))
    places = torch.arange(count) * len(part) // count
    with evaluating(model):
        drawn = _draw(model, part, places[share(count, rank, world_size)], seed, split)
        if drawn is None:
            return None
        z, log_q_given_x, log_p = drawn
        log_q = _log_aggregate(accelerator, model, part, z, longest=math.ceil(count / world_size), progress=progress)
    mine = torch.stack([log_q_given_x - log_q, log_q - log_p], 1)
    terms = Ranks(count, count, rank, world_size).gather(mine)
    information, marginal = mean_and_error(terms[:, 0]), mean_and_error(terms[:, 1])
    if model.prior.needs_labels:
        marginal = None, None
    return Aggregate(*information, *marginal, limit=math.log(len(part)), draws=count)


def _draw(model: VAE, part: Split, places: Tensor, seed: int, split: str) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return z (M, D), log q(z|x) and log p(z), each (M,), float64, of some images; None with several layers."""
    with ThreadPoolExecutor(1) as pool:
        noise = Draws(seed, split, places.tolist(), model.noise_dim, pool).next(1)[:, 0]
    found = []
    for rows in list(chunks(slice(0, len(places)))) or [slice(0, 0)]:
        x, labels = images_of(model, part, places[rows]), labels_for(model, part, places[rows])
        layer, *others = model.infer(x, noise[rows].to(x), labels)
        if others:
            return None
        found.append((layer.z, layer.q.log_prob(layer.z).double(), layer.p.log_prob(layer.z).double()))
    z, log_q, log_p = (torch.cat(each) for each in zip(*found, strict=True))
    return z, log_q, log_p


def _log_aggregate(
    accelerator: Accelerator, model: VAE, part: Split, z: Tensor, *, longest: int, progress: Progress
) -> Tensor:
    """Return log q(z), (M,), float64, for this rank's z (M, D) (all ranks); no rank has more than `longest`."""
    log_sum = z.new_full((len(z),), -math.inf, dtype=torch.float64)
    batch = None
    with progress.stage("q(z)", len(z) * len(part), "pair"):
        for columns in chunks(slice(0, len(part))):
            q = model.encode(images_of(model, part, columns), labels_for(model, part, columns))
            batch = batch or largest_batch(accelerator, _densities(q), few=2)
            for start in range(0, longest, batch):
                rows = slice(start, min(start + batch, len(z)))
                terms = q.log_prob(z[rows, None]).double().logsumexp(1)
                log_sum[rows] = torch.logaddexp(log_sum[rows], terms)
                progress.advance(len(terms) * (columns.stop - columns.start))
    return log_sum - math.log(len(part))


def _densities(q: Distribution) -> Callable[[int], Tensor]:
    """Return the function that evaluates a number of z under all q."""
    z = q.mean[:1, None]
    return lambda count: q.log_prob(z.expand(count, 1, -1))
