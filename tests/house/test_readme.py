"""The README's commands run as written, and print what it shows.

Timings differ from run to run, so numbers after "seconds" and before "additions/s" are not
compared; everything else is. A line "…" stands for any lines that are left out.
"""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest

from adderc.app import run
from adderc.errors import Source
from adderc.lang.check import check_spec
from adderc.lang.parse import parse

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [text for name, text in fenced if name == language]


def sessions() -> list[tuple[str, str]]:
    """(command, what it prints) in the order of the page."""
    found = []
    for block in blocks("console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output.strip()))
    return found


def settled(text: str) -> str:
    """The text without timings and without trailing blanks."""
    text = re.sub(r"(seconds +)[\d.]+", r"\1_", text)
    text = re.sub(r"[\d,]+ additions/s", "_ additions/s", text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def shows(expected: str, printed: str) -> bool:
    """Whether the page's text is what was printed, but for the lines it leaves out."""
    parts = re.split(r"^…$\n?", settled(expected), flags=re.MULTILINE)
    pattern = r"(?:.*\n?)*?".join(map(re.escape, parts))
    return re.fullmatch(pattern, settled(printed)) is not None


def test_lines_may_be_left_out() -> None:
    assert shows("a\nseconds 1.5\n…\nc", "a\nseconds 2\nb\nb\nc\n")
    assert shows("a\n…", "a\nb\nc")
    assert not shows("a\nc", "a\nb\nc")
    assert not shows("a\n…\nd", "a\nb\nc")
    assert not shows("a\nb", "a\nb\nc")


def test_console_sessions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("specs", "models"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.chdir(tmp_path)
    ran = 0
    for command, expected in sessions():
        if command.startswith("pip "):
            continue
        for single in command.split(" && "):
            words = single.split()
            assert words[0] == "adderc"
            assert run(words[1:]) == 0, single
            ran += 1
        printed = capsys.readouterr().out
        if not shows(expected, printed):
            assert settled(printed) == settled(expected), command
    assert ran >= 11


def test_python_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "specs").symlink_to(ROOT / "specs")
    monkeypatch.chdir(tmp_path)
    text = "\n".join(blocks("python"))
    session = doctest.DocTestParser().get_doctest(text, {}, "README.md", "README.md", 0)
    report: list[str] = []
    found = doctest.DocTestRunner().run(session, out=report.append)
    assert found.attempted >= 20
    assert found.failed == 0, "".join(report)


def test_language_page_is_a_spec() -> None:
    page = next(b for b in blocks("") if b.startswith("adder ripple"))
    checked = check_spec(parse(Source("README.md", page)))
    assert checked.contexts is not None
    assert checked.contexts.adds


def test_wrong_algorithm_output(tmp_path: Path) -> None:
    expected = next(b for b in blocks("") if b.startswith("error: wrong.adder"))
    text = (ROOT / "specs" / "nanogpt58.adder").read_text(encoding="utf-8")
    lines = text.replace("prev > s[i-1]", "prev >= s[i-1]").splitlines()
    (tmp_path / "wrong.adder").write_text("\n".join(lines), encoding="utf-8")
    result = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), "check", "wrong.adder"],
        cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert settled(result.stderr) == settled(expected)
