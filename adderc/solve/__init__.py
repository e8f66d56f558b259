"""The weight solver: unknown leaves, one constraint per context and wrong token, a recheck."""
