"""Weight expressions, their readings, the structure of a model and the model file.

Takes: leaf values and expressions over them. Gives: matrices, symbols, bounds, files.
May import: errors, format.
"""
