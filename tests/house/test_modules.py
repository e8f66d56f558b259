"""What every file keeps to: docstring, length, no names of specs, nothing printed."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

import adderc

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "adderc"
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST_FILE, LONGEST_FUNCTION = 500, 40

# seeds and published systems that a module of the compiler has no business knowing
SEEDS = ("nanogpt", "tinyadder", "microadder", "gpt46", "gptadder", "rope19", "lowrank512")
NAMES = {*SEEDS, *(path.stem.lower() for path in (ROOT / "specs").glob("*.adder"))}

by_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


@by_file
def test_no_module_knows_a_spec_or_a_seed(path):
    text = f"{path.relative_to(PACKAGE)}\n{path.read_text(encoding='utf-8')}".lower()
    found = {name for name in NAMES if re.search(rf"(?<![a-z]){re.escape(name)}(?![a-z])", text)}
    assert not found


@by_file
def test_modules_say_what_they_are_and_stay_short(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "no module docstring"
    assert text.count("\n") <= LONGEST_FILE
    if path.name != "__init__.py":
        assert "May import" in ast.get_docstring(tree), "the docstring does not say may import"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < LONGEST_FUNCTION + 10, node.name
        if isinstance(node, ast.ImportFrom):
            assert all(alias.name != "*" for alias in node.names)


def test_the_version_is_the_packages():
    assert adderc.__version__ == project()["project"]["version"]


def test_every_package_is_installed():
    """pyproject.toml lists the packages, because the specs come from beside them."""
    settings = project()["tool"]["setuptools"]
    found = {
        ".".join(path.parent.relative_to(ROOT).parts) for path in PACKAGE.rglob("__init__.py")
    }
    assert set(settings["packages"]) == found | {"adderc.specs"}
    assert settings["package-dir"] == {"adderc.specs": "specs"}
    data = settings["package-data"]
    for path in PACKAGE.rglob("*"):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            patterns = [p for name, ps in data.items() for p in ps
                        if path.match(f"{name.replace('.', '/')}/{p}")]
            assert patterns, f"{path} would not be installed"


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
