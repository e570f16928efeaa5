"""tests/helpers/programs/at_a_point.py under the fake runtime, with points of its own: `replay`, of a CUDA graph."""

import torch

from tests.cuda import job
from tests.helpers.programs import at_a_point

if __name__ == "__main__":
    job.silence()
    job.STEPS_BETWEEN_VOTES = 10
    at_a_point.POINTS["replay"] = (torch.cuda.CUDAGraph, "replay")
    at_a_point.main()
