"""A run's folder on the disk: its contents, its lock, its checkpoints, and opening a finished run."""
