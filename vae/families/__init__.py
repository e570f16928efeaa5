"""Families of distributions: posteriors, priors and likelihoods, made from the numbers of networks."""
