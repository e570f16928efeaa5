"""Programs that tests/cuda runs under the fake CUDA runtime."""
