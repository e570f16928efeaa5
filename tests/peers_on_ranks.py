"""Run by test_peers.py under torchrun: what all ranks gather, and the gradient that comes back."""

import os
import sys
from pathlib import Path

import torch

from vae import launch
from vae.data.batches import share
from vae.peers import Peers


def main(path: str, count: int) -> None:
    """Write this rank's value and gradient of a function of all pairs of examples."""
    torch.set_num_threads(1)
    accelerator = launch.make_accelerator("cpu", "no", os.environ)
    rank, world_size = accelerator.process_index, accelerator.num_processes
    peers = Peers(count, 1000, rank, world_size)
    everyone = torch.linspace(-1, 2, count * 3, dtype=torch.float64).reshape(count, 3).sin()
    part = share(count, rank, world_size)
    mine = everyone[part] if part.stop > part.start else everyone[:1]  # a stand-in, as in batches
    mine = mine.clone().requires_grad_()
    others = peers.gather(mine)
    assert torch.equal(others, everyone)
    assert peers.mine == part
    loss = pairs(mine, others)[: part.stop - part.start].sum()
    (gradient,) = torch.autograd.grad(loss, mine)
    torch.save({"loss": loss.detach(), "gradient": gradient[: part.stop - part.start]}, Path(path) / f"{rank}.pt")
    launch.leave()


def pairs(mine: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Return for each of mine (B, D) a number that depends on all others (N, D)."""
    return (mine @ others.T).tanh().sum(1)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
