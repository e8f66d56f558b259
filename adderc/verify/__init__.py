"""Testing a model on suites of sums: what to ask, running it, and the count of right answers."""
