"""Around the steps of a training run: what is due when, records, checkpoints, results."""
