"""A run's folder on the disk: what stands in it, who has it, and how it is opened again."""
