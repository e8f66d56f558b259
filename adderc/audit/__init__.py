"""Counting every number that a model computes with, by fixed definitions."""
