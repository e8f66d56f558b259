"""Files of operands, read in parts of bounded size.

Takes: a path or - for stdin, the number format. Gives: `read_tuples` → parts [N, operands]
with how far the file is read; `one_tuple`.
May import: errors, format.

A part whose lines are all plain (digits, one comma or blank between two operands) is read
as one array; any other part line by line, which names the first bad line.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from adderc.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from adderc.format.number import NumberFormat

PART_BYTES = 2**18
LONGEST_SHOWN = 60
PLAIN_DIGITS = 18  # decimal digits that always fit an int64


@dataclass(frozen=True)
class Part:
    """Operands [N, operands] and how many bytes of `size` are read (0: not known)."""

    operands: np.ndarray
    read: int
    size: int


def read_tuples(path: str, number: NumberFormat) -> Iterator[Part]:
    """Parts of a file of operands; InputError names the first bad line."""
    label = "standard input" if path == "-" else path
    line = 1
    try:
        with _opened(path) as stream:
            size = os.fstat(stream.fileno()).st_size if path != "-" else 0
            read, first = 0, True
            for block in _blocks(stream):
                read += len(block)
                if first:
                    block, first = block.removeprefix(b"\xef\xbb\xbf"), False
                operands = _plain_rows(block, number)
                if operands is None:
                    operands = _rows(block, number, label, line)
                line += block.count(b"\n")
                if len(operands):
                    yield Part(operands, read, size)
    except OSError as error:
        raise InputError(f"cannot read {label}: {error.strerror or error}") from None


def _opened(path: str) -> BinaryIO:
    if path != "-":
        return open(path, "rb")
    # a copy, so that closing it leaves the process its standard input
    try:
        return os.fdopen(os.dup(sys.stdin.fileno()), "rb")
    except (OSError, io.UnsupportedOperation):
        return sys.stdin.buffer


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
    """Whole lines, about PART_BYTES together; from a pipe what is there, as it comes."""
    read: Any = getattr(stream, "read1", stream.read)
    rest: list[bytes] = []
    while block := read(PART_BYTES):
        whole, newline, tail = block.rpartition(b"\n")
        if newline:
            yield b"".join([*rest, whole, newline])
            rest = []
        rest.append(tail)
    if last := b"".join(rest):
        yield last


def _plain_rows(block: bytes, number: NumberFormat) -> np.ndarray | None:
    """Operands [N, operands] int64 of plain lines; None where one is not plain or in range."""
    import numpy as np

    from adderc.format.batches import integer_type

    if integer_type(number) != np.int64:
        return None
    text = np.frombuffer(block.replace(b"\r\n", b"\n").rstrip(b"\n") + b"\n", dtype=np.uint8)
    digit = (text >= ord("0")) & (text <= ord("9"))
    ends = np.flatnonzero(~digit)  # one after each operand, if the lines are plain
    count = number.operands
    if len(ends) % count or len(ends) == 0:
        return None
    marks = text[ends].reshape(-1, count)
    between = (marks[:, :-1] == ord(",")) | (marks[:, :-1] == ord(" ")) | (
        marks[:, :-1] == ord("\t"))
    lengths = np.diff(ends, prepend=-1) - 1
    if not (between.all() and (marks[:, -1] == ord("\n")).all()
            and lengths.min() > 0 and lengths.max() <= PLAIN_DIGITS):
        return None
    values = np.zeros(len(ends), dtype=np.int64)
    for place in range(int(lengths.max())):
        at = ends - 1 - place
        value = text[np.maximum(at, 0)].astype(np.int64) - ord("0")
        values += np.where(place < lengths, value, 0) * 10**place
    if values.max() > number.maximum:
        return None
    return values.reshape(-1, count)


def _rows(block: bytes, number: NumberFormat, label: str, line: int) -> np.ndarray:
    """Operands [N, operands], line by line; `line` is the number of the first."""
    import numpy as np

    from adderc.format.batches import integer_type

    try:
        lines = block.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        raise InputError(f"{label} is not a text file") from None
    rows = []
    for count, text in enumerate(lines, start=line):
        if not text.strip():
            continue
        cells = text.split(",") if "," in text else text.split()
        try:
            rows.append(one_tuple(cells, number))
        except InputError as error:
            raise InputError(f"{label}, line {count}: {error.message}", error.hint) from None
    return np.array(rows, dtype=integer_type(number)).reshape(len(rows), number.operands)


def one_tuple(texts: Sequence[str], number: NumberFormat) -> tuple[int, ...]:
    """Operands from text; InputError unless they are decimal, in range and enough."""
    values = []
    for position, text in enumerate(texts):
        name = f"operand {number.names[position]}" if position < number.operands else "operand"
        text = text.strip()
        digits = text.strip('"').replace("_", "")
        if not (digits.isascii() and digits.isdigit()):
            raise InputError(f"{name} {_shown(text)} is not a non-negative decimal integer")
        if len(digits.lstrip("0")) > max(LONGEST_SHOWN, number.maximum.bit_length() // 3 + 1):
            raise InputError(f"{name} = {_shown(text)} is out of range: {len(digits)} digits")
        values.append(int(digits))
    number.check_operands(values)
    return tuple(values)


def _shown(text: str) -> str:
    return repr(text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…")
