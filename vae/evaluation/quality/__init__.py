"""Quality of samples, as a small classifier of the same data sees them; no network is downloaded for it."""
