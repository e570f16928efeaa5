"""Data sets as one tensor, which example goes to which step and rank, and noise keyed by example."""
