"""The torch module that a structure becomes, its hooks, and greedy decoding.

Takes: a structure and leaf values. Gives: an nn.Module and answers.
May import: errors, format, weights.
"""
