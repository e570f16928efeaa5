"""Checks before a run: machine, launcher, ranks, run folder, data and SLURM, with a finding for each."""
