"""Faults planted on one process with two devices: each breaks a rule of CUDA's or of the project's, and is named.

Prints a JSON object: name of the fault -> the violations that the runtime has found.
"""

import contextlib
import ctypes
import json
from collections.abc import Callable

import torch

from tests.cuda import counters

RUNTIME = ctypes.CDLL(None)
X = torch.ones(1000, device="cuda")


def captured(function: Callable[[], object]) -> None:
    """Capture a call; its failure is expected."""
    before = torch.cuda.current_stream()
    with contextlib.suppress(RuntimeError), torch.cuda.graph(torch.cuda.CUDAGraph()):
        function()
    torch.cuda.set_stream(before)  # where a capture fails, torch stays on its stream


def pageable_copy() -> None:  # torch refuses it by itself
    here = (ctypes.c_float * 10)()
    stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
    RUNTIME.cudaMemcpyAsync(ctypes.c_void_p(X.data_ptr()), here, ctypes.c_size_t(40), 1, stream)


def allocation() -> None:
    RUNTIME.cudaMalloc(ctypes.byref(ctypes.c_void_p()), ctypes.c_size_t(100))


def pinned_allocation() -> None:
    RUNTIME.cudaHostAlloc(ctypes.byref(ctypes.c_void_p()), ctypes.c_size_t(100), 0)


def wait_for_work_outside() -> None:
    event = torch.cuda.Event()
    event.record(torch.cuda.default_stream())
    event.wait()


def stream_left_alone() -> None:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        X.add_(1)


def wrong_tensor() -> None:
    with torch.cuda.device(1):
        torch.zeros(10, device="cuda:1")
        RUNTIME.cudaMemsetAsync(ctypes.c_void_p(X.data_ptr()), 0, ctypes.c_size_t(40), ctypes.c_void_p())


def wrong_operand() -> None:
    with torch.cuda.device(1):
        handle = ctypes.c_void_p(torch.cuda.current_blas_handle())
        RUNTIME.cublasSdot_v2(handle, 3, ctypes.c_void_p(X.data_ptr()), 1, ctypes.c_void_p(X.data_ptr()), 1, None)


def wrong_stream() -> None:
    stream = ctypes.c_void_p(torch.cuda.Stream("cuda:0").cuda_stream)
    with torch.cuda.device(1):
        there = torch.zeros(10, device="cuda:1").data_ptr()
        RUNTIME.cudaMemsetAsync(ctypes.c_void_p(there), 0, ctypes.c_size_t(40), stream)


def in_step(function: Callable[[], object]) -> None:
    with counters.step():
        function()


FAULTS: dict[str, Callable[[], object]] = {
    "read-back in a capture": lambda: captured(lambda: X.sum().item()),
    "wait for the device in a capture": lambda: captured(torch.cuda.synchronize),
    "pageable copy in a capture": lambda: captured(pageable_copy),
    "allocation in a capture": lambda: captured(allocation),
    "pinned allocation in a capture": lambda: captured(pinned_allocation),
    "wait for work outside of the capture": lambda: captured(wait_for_work_outside),
    "stream that is not joined": lambda: captured(stream_left_alone),
    "read-back in a step": lambda: in_step(lambda: X[0].item()),
    "pageable copy in a step": lambda: in_step(lambda: X.copy_(torch.ones(1000), non_blocking=True)),
    "tensor of another device": wrong_tensor,
    "operand on another device": wrong_operand,
    "stream of another device": wrong_stream,
    "function that is not stood in": lambda: RUNTIME.cuMemCreate(None, 0, None, 0),
}


def main() -> None:
    """Plant the faults one after the other."""
    found = {}
    for name, plant in FAULTS.items():
        with counters.between() as seen:
            plant()
        found[name] = seen.violations
    print(json.dumps(found))


if __name__ == "__main__":
    main()
