"""The log-likelihood of held-out images: importance-weighted estimates, one run or several."""
