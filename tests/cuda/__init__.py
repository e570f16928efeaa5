"""The CUDA path, without a GPU: torch's own CUDA code on a runtime that runs no kernel."""
