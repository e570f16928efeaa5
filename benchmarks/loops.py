"""A conventional training loop, as a good tutorial writes it: what the job is compared with. Only the loader varies.

Net, initial weights, precision, learning rate, weight decay and clipping are the job's. Loss and update are written
with `torch.distributions` and plain PyTorch, so that what makes the job faster does not make its yardstick faster too.
"""

import contextlib
import time
from collections.abc import Generator, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader, TensorDataset
from torchvision import datasets
from torchvision.transforms import v2

from vae.config import Config
from vae.model import VAE
from vae.networks.linear import Linear

LOG_EVERY = 100  # steps between two looks at the loss
PIXELS = 3  # dimensions of an image: (C, H, W)


class NegativeELBO(nn.Module):
    """Images (B, C, H, W) -> mean of -ELBO, nats: Gaussian q(z|x), standard normal prior, Bernoulli pixels.

    Arguments of distributions are not checked: the checks would make a GPU wait for the host.
    """

    def __init__(self, vae: VAE):
        super().__init__()
        self.encoder, self.decoder = vae.encoder, vae.decoder
        for layer in self.modules():
            if type(layer) is Linear:
                layer.__class__ = nn.Linear  # pyright: ignore[reportAttributeAccessIssue]  # torch's own products

    def forward(self, x: Tensor) -> Tensor:
        """Return the loss of a batch."""
        loc, raw = self.encoder(x).float().chunk(2, dim=-1)
        q = Independent(Normal(loc, F.softplus(raw) + 1e-6, validate_args=False), 1, validate_args=False)
        p = Independent(Normal(torch.zeros_like(loc), torch.ones_like(loc), validate_args=False), 1)
        logits = self.decoder(q.rsample()).float()
        p_x = Independent(Bernoulli(logits=logits, validate_args=False), PIXELS, validate_args=False)
        return (kl_divergence(q, p) - p_x.log_prob(x)).mean()


class Loop:
    """Trains eagerly on what a loader gives.

    Args:
        loss: images -> loss; a `NegativeELBO`, or one wrapped for several processes.
        loader: of (images, ...).
        config: the job's, for the optimiser.
        device: to train on.
        precision: `fp32` or `bf16` (autocast).
    """

    def __init__(
        self,
        loss: nn.Module,
        loader: Iterable[Sequence[Tensor]],
        config: Config,
        device: torch.device,
        precision: str,
    ):
        self.loss, self.loader, self.device = loss, loader, device
        self.max_grad_norm = config.optim.max_grad_norm
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
        self.optimizer = torch.optim.AdamW(
            loss.parameters(), lr=config.optim.lr, weight_decay=config.optim.weight_decay
        )

    def measure(self, steps: int, warm_up: int) -> tuple[float, int]:
        """Return the seconds that so many steps took, after some that are not counted, and the images they saw.

        A loader's start, with that of its worker processes, is left out, though a tutorial pays for it each epoch.
        """
        with contextlib.closing(self._batches()) as batches:
            for _ in range(warm_up):
                self.step(next(batches))
            self._synchronize()
            started, images = time.perf_counter(), 0
            for step in range(1, steps + 1):
                x = next(batches)
                loss = self.step(x)
                images += len(x)
                if step % LOG_EVERY == 0:
                    loss.item()
            self._synchronize()
            return time.perf_counter() - started, images

    def step(self, x: Tensor) -> Tensor:
        """Make one update from images (B, C, H, W); returns the loss, on the device."""
        x = x.to(self.device, non_blocking=True)
        self.optimizer.zero_grad()
        with self.autocast:
            loss = self.loss(x)
        loss.backward()
        if self.max_grad_norm is not None:
            clip_grad_norm_(self.loss.parameters(), self.max_grad_norm)
        self.optimizer.step()
        return loss.detach()

    def _batches(self) -> Generator[Tensor]:
        while True:
            for x, *_ in self.loader:
                yield x

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def files_loader(config: Config, batch_size: int, workers: int, device: torch.device) -> DataLoader:
    """Return (a): torchvision's MNIST, a PIL image and two transforms for each sample, `workers` processes or none."""
    transform = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    data = datasets.MNIST(config.data.root or "data", train=True, transform=transform, download=True)
    pin_memory = device.type == "cuda"
    return DataLoader(data, batch_size=batch_size, shuffle=True, num_workers=workers, pin_memory=pin_memory)


def memory_loader(images: Tensor, batch_size: int, device: torch.device) -> DataLoader:
    """Return (b): float32 images in memory, collated from samples by a DataLoader."""
    data = TensorDataset(v2.functional.to_dtype(images, torch.float32, scale=True))
    return DataLoader(data, batch_size=batch_size, shuffle=True, pin_memory=device.type == "cuda")
