"""Disentanglement: scores of how well each latent dimension stands for one factor, on images with known factors."""
