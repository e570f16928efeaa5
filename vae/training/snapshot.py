"""A snapshot of a run in host memory: queued behind the device's work, complete when a thread asks for it."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vae.model import VAE


class Snapshot:
    """A copy of a run's models and of a state in host memory, made without waiting for the device.

    `take` queues copies into pinned memory on the stream that trains, so that they lie between two updates; `wait`
    returns when they are made. On a CPU `take` makes them. The memory is allocated once and used again.

    Args:
        models: unwrapped; their tensors stay the same ones, and one that several models share is copied once.

    Attributes:
        models: the copies, on the CPU.
        state: the state that was taken, its tensors on the CPU.
    """

    def __init__(self, *models: VAE):
        every: list[Tensor] = [tensor for model in models for tensor in (*model.parameters(), *model.buffers())]
        here = list({id(tensor): tensor for tensor in every}.values())
        there = [_host_memory(tensor) for tensor in here]
        self._weights = list(zip(here, there, strict=True))
        self.models = copy.deepcopy(models, {id(tensor): copied for tensor, copied in self._weights})
        self.state: dict[str, Any] = {}
        self._memory: dict[tuple[Any, ...], Tensor] = {}  # of the tensors in `state`, by the keys that lead there
        self._copied = torch.cuda.Event(blocking=True) if here[0].is_cuda else None

    @torch.no_grad()
    def take(self, state: Mapping[str, Any]) -> None:
        """Copy models and nested dictionaries of tensors and plain data, as they are when the device comes to it."""
        for tensor, copied in self._weights:
            copied.copy_(tensor, non_blocking=True)
        self.state = self._taken(state, (), {})
        if self._copied is not None:
            self._copied.record()

    def wait(self) -> None:
        """Wait until the copies are made, in any thread."""
        if self._copied is not None:
            self._copied.synchronize()

    def _taken(self, part: Any, place: tuple[Any, ...], copied: dict[int, Tensor]) -> Any:
        """Return a copy of what lies at `place` of the state; a tensor that lies at several is `copied` once."""
        if isinstance(part, Mapping):
            return {key: self._taken(value, (*place, key), copied) for key, value in part.items()}
        if not isinstance(part, Tensor):
            return part
        if id(part) not in copied:
            if place not in self._memory:
                self._memory[place] = _host_memory(part)
            copied[id(part)] = self._memory[place].copy_(part, non_blocking=True)
        return copied[id(part)]


def _host_memory(tensor: Tensor) -> Tensor:
    """Return uninitialised memory on the CPU for a copy of a tensor, pinned for one on a GPU; a parameter's is one."""
    memory = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
    return nn.Parameter(memory, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else memory
