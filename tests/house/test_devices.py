"""Tests and the programs that they start leave the GPU of a machine alone, but for the tests marked gpu."""

import os

import torch

from tests.helpers.starts import environment


def test_neither_a_test_nor_a_program_that_it_starts_sees_a_device() -> None:
    assert os.environ["CUDA_VISIBLE_DEVICES"] == environment()["CUDA_VISIBLE_DEVICES"] == ""
    assert torch.cuda.device_count() == 0
