"""A model as a Python file of its own, compared with the module before it is written.

Takes: a module. Gives: a file that needs torch alone.
May import: errors, results, format, weights, nn.
"""
