"""Passes between the checked spec and the placed circuit, one file each."""
