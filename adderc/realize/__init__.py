"""Realizations: how each operation becomes weights, one file for each kind of block."""
