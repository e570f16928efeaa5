"""Two ranks that break the rules of several; the last one ends them: real ranks would wait for each other for ever."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.cuda import counters


def meet_late(rank: int, sign: Path) -> None:
    """Rank 1 comes when rank 0 has gone on from its call: a collective is enqueued, not waited for."""
    numbers = torch.full((3,), rank + 1.0, device="cuda")
    dist.barrier(device_ids=[rank])  # the first collective makes the communicator, for which they wait
    if rank == 1:
        while not sign.exists():
            time.sleep(0.01)
    dist.all_reduce(numbers)
    if rank == 0:
        assert not torch.cuda.current_stream().query()
        sign.touch()
    assert numbers.tolist() == [3.0, 3.0, 3.0]


def give_up(rank: int) -> None:
    """Rank 0 calls what no other calls, and gives up."""
    group: Any = dist.new_group(backend="nccl")
    numbers = torch.ones(3, device="cuda")
    dist.all_reduce(numbers, group=group)
    torch.cuda.synchronize()
    if rank == 0:
        dist.all_reduce(numbers, group=group, async_op=True)
        group._get_backend(torch.device("cuda")).abort()
        torch.cuda.synchronize()


def capture() -> torch.cuda.CUDAGraph:
    numbers, graph = torch.ones(3, device="cuda"), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        dist.all_reduce(numbers)
    return graph


def leave_with(graph: torch.cuda.CUDAGraph) -> None:
    group: Any = dist.new_group(backend="nccl")
    dist.all_reduce(torch.ones(3, device="cuda"), group=group)
    torch.cuda.synchronize()
    dist.destroy_process_group(group)
    graph.reset()


def call_different_things(rank: int) -> None:
    numbers = torch.ones(3, device="cuda")
    if rank == 0:
        dist.all_reduce(numbers)
        dist.broadcast(numbers, 0)
    else:
        dist.broadcast(numbers, 0)
        dist.all_reduce(numbers)
    torch.cuda.synchronize()


if __name__ == "__main__":
    rank = int(os.environ["RANK"])
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl")
    meet_late(rank, Path(sys.argv[1]))
    give_up(rank)
    assert counters.violations() == [], counters.violations()
    leave_with(capture())
    if rank == 1:
        torch.zeros(3, device="cuda:0")
    call_different_things(rank)
