"""Whether a run would work here: machine, launcher, ranks, run folder, data and SLURM, a finding for each."""
