"""How well each latent dimension stands for one factor of the data: scores of a model on images with known factors."""
