"""Training: weights found by gradient descent on sums, for tiny models on a CPU."""
