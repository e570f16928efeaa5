"""Families of distributions: what the networks' numbers mean, and how a latent variable is distributed."""
