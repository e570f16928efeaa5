"""Training reaches a known optimum: that of probabilistic PCA, which a linear VAE has in closed form.

Tipping & Bishop 1999 give the largest likelihood of x = W z + b + std e by the eigenvalues of the sample covariance;
Lucas et al. 2019 (Don't blame the ELBO!) show that the ELBO of a linear VAE has its maximum there, and no other.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from tests.helpers.linear import marginal_of, posterior_of
from vae import assemble
from vae.config import load
from vae.data import randomness
from vae.data.batches import TrainingBatches
from vae.data.dataset import Split
from vae.distributed import launch
from vae.distributed.signals import StopRequest
from vae.evaluation.log_likelihood.importance import estimate
from vae.evaluation.log_likelihood.progress import Progress
from vae.families.likelihoods import NormalLearnedStd
from vae.model import VAE

N, P, D, STEPS = 200, 6, 2, 1000
SETTINGS = [
    "optim.lr=0.05", f"optim.lr_schedule={{name: Cosine, epochs: {STEPS}}}", "optim.betas=[0.9, 0.99]",
    "optim.weight_decay=0", "optim.max_grad_norm=null", f"train.batch_size={N}", "train.precision=fp64",
    "train.engine=eager", "objective={name: ELBO, beta: 1, samples: 16}",
]  # fmt: skip


@dataclass(frozen=True)
class Optimum:
    """The maximum of the likelihood of rows (N, P): mean log p(x), b, std, the first eigenvalues and their vectors."""

    log_likelihood: float
    mean: Tensor
    std: float
    values: np.ndarray
    vectors: np.ndarray

    @classmethod
    def of(cls, rows: Tensor) -> "Optimum":
        """Tipping & Bishop 1999, eq. 3 to 8."""
        values, vectors = (part[..., ::-1] for part in np.linalg.eigh(np.cov(rows.numpy().T, bias=True)))
        variance = values[D:].mean()
        log_det = np.log(values[:D]).sum() + (P - D) * math.log(variance)
        best = -0.5 * (P * math.log(2 * math.pi) + log_det + P)
        return cls(best, rows.mean(0), math.sqrt(variance), values[:D], vectors[:, :D])


def turned_rows() -> Tensor:
    """Return rows (N, P) that vary by 2, 1 and four times 0.4 along axes that are none of the pixels'."""
    rng = randomness.generator(5, "rows")
    axes = np.linalg.qr(rng.normal(size=(P, P)))[0]
    return torch.from_numpy(0.5 + rng.normal(size=(N, P)) * [2.0, 1.0, 0.4, 0.4, 0.4, 0.4] @ axes.T)


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    yield launch.make_accelerator("cpu", "no", {})
    launch.leave()


def trained(accelerator: Accelerator, images: Tensor) -> VAE:
    """Return a VAE of one linear layer each way, trained as any other is."""
    config, family = load(None, SETTINGS), {"name": "DiagonalNormal", "scale": "exp", "eps": 0.0}
    model = VAE((1, 1, P), D, depth=0, posterior=family, likelihood="NormalLearnedStd").double()
    loss = assemble.build_objective(config)
    batches = TrainingBatches(
        images, batch_size=N, noise_dim=D, samples=loss.samples, seed=0, dtype=assemble.DTYPES["fp64"]
    )
    engine = assemble.build_engine(config, accelerator, model, loss, batches)
    step = 0
    while step < STEPS:
        step += engine.advance(step, STEPS)
    engine.close()
    return model


def test_a_linear_vae_is_trained_to_probabilistic_pca(accelerator: Accelerator) -> None:
    rows = turned_rows()
    images, best = rows.view(N, 1, 1, P), Optimum.of(rows)
    model = trained(accelerator, images)
    progress = Progress(accelerator, StopRequest())
    found = estimate(accelerator, model, Split(images), samples=100, seed=0, split="test", progress=progress)
    assert found.log_likelihood.mean().item() == pytest.approx(best.log_likelihood, abs=1e-3)
    assert found.elbo.mean().item() == pytest.approx(best.log_likelihood, abs=2e-3), "the bound is tight"
    layer, likelihood = model.decoder.output_layer, model.likelihood
    assert isinstance(likelihood, NormalLearnedStd)
    assert layer.bias is not None
    w, b, std = layer.weight.detach(), layer.bias.detach(), likelihood.std(likelihood.raw).item()
    with torch.no_grad():
        q = model.encode(images)
    assert std == pytest.approx(best.std, rel=2e-3)
    torch.testing.assert_close(b, best.mean, rtol=0, atol=0.02)
    exact = marginal_of(w, b, std).log_prob(rows).mean().item()
    assert found.log_likelihood.mean().item() == pytest.approx(exact, abs=1e-3), "no matter how well it is trained"
    cosines = np.linalg.svd(np.linalg.qr(w.numpy())[0].T @ best.vectors)[1]
    assert cosines == pytest.approx(1, abs=1e-5), "W spans the first eigenvectors"
    values = np.linalg.eigvalsh((w.T @ w).numpy())[::-1]
    assert values == pytest.approx(best.values - best.std**2, rel=0.02)
    to_mean, covariance = posterior_of(w, std)
    torch.testing.assert_close(q.mean, (rows - b) @ to_mean.T, rtol=0, atol=0.02)
    of_each = torch.linalg.eigvalsh(covariance).numpy()
    assert of_each == pytest.approx(best.std**2 / best.values, rel=0.02), "those of std^2 / eigenvalue"
    torch.testing.assert_close(q.variance.diag_embed(), covariance.expand(N, D, D), rtol=0.02, atol=0.002)
