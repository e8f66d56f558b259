"""Reading operands from files: the quick way and the careful way agree."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adderc import app_tuples
from adderc.app_tuples import read_tuples
from adderc.errors import InputError
from adderc.format.number import NumberFormat

NUMBER = NumberFormat(10, 6)
CELLS = st.lists(st.tuples(st.integers(0, 999999), st.integers(0, 999999)), max_size=30)


def rows(path, number=NUMBER):
    parts = [part.operands for part in read_tuples(str(path), number)]
    return np.concatenate(parts).tolist() if parts else []


@given(pairs=CELLS, joint=st.sampled_from([",", " ", "\t", ", ", " , "]),
       end=st.sampled_from(["\n", "\r\n", "\n\n"]), last=st.booleans(),
       size=st.integers(1, 64))
def test_what_is_written_is_read(tmp_path_factory, pairs, joint, end, last, size):
    path = tmp_path_factory.mktemp("tuples") / "pairs"
    text = end.join(f"{a}{joint}{b}" for a, b in pairs) + (end if last else "")
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app_tuples, "PART_BYTES", size)
        assert rows(path) == [list(pair) for pair in pairs]


def test_plain_lines_take_the_quick_way(tmp_path, monkeypatch):
    monkeypatch.setattr(app_tuples, "_rows", None)
    path = tmp_path / "pairs"
    path.write_text("1,2\n0003,999999\n5 6\n")
    assert rows(path) == [[1, 2], [3, 999999], [5, 6]]


@pytest.mark.parametrize("line", ["1,2,3", "1", "1,1000000", "1;2", "-1,2", "1,,2", "1.0,2", ","])
def test_the_bad_line_is_named(tmp_path, line):
    path = tmp_path / "pairs"
    path.write_text("1,2\n" * 70_000 + f"{line}\n" + "1,2\n" * 10)
    with pytest.raises(InputError, match=r"pairs, line 70001: "):
        rows(path)


def test_lines_beyond_int64(tmp_path):
    number = NumberFormat(10, 30)
    path = tmp_path / "pairs"
    path.write_text(f"{10**30 - 1},{10**29}\n")
    assert rows(path, number) == [[10**30 - 1, 10**29]]


def test_a_pipe_is_read_as_it_comes(monkeypatch):
    class Pipe(io.BytesIO):
        def read1(self, size=-1):
            return super().read1(min(size, 5))

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(Pipe(b"1 2\n3 4\n5 6")))
    parts = [part.operands.tolist() for part in read_tuples("-", NUMBER)]
    assert parts == [[[1, 2]], [[3, 4]], [[5, 6]]]
