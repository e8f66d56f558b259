"""Batches of integers, under the name by which the suites know them.

Takes: nothing. Gives: what `format.batches` gives. May import: format.
"""

from adderc.format.batches import (
    INT64_LIMIT,
    chunk_places,
    digits_of,
    integer_type,
    sums_of,
    values_of,
)

__all__ = ["INT64_LIMIT", "chunk_places", "digits_of", "integer_type", "sums_of", "values_of"]
