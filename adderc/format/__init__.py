"""Numbers and formats as data: below everything that runs or judges a model."""
