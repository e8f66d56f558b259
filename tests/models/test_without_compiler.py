"""A model file runs where the compiler is not installed: no lang, ir, passes, realize, pipeline."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import adderc
from adderc.pipeline import Settings, compile_spec, read_spec

REMOVED = ("lang", "ir", "passes", "realize", "solve", "train", "reference.py", "pipeline")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package without its compiler, and a model file beside it."""
    folder = tmp_path_factory.mktemp("bare")
    shutil.copytree(Path(adderc.__file__).parent, folder / "adderc",
                    ignore=shutil.ignore_patterns("__pycache__"))
    for name in REMOVED:
        path = folder / "adderc" / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    compile_spec(read_spec("nanogpt58"), Settings(width=4)).save(str(folder / "m.safetensors"))
    return folder


def python(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return subprocess.run(
        [sys.executable, *arguments], cwd=place, env=environment | {"PYTHONPATH": str(place)},
        capture_output=True, text=True, timeout=120, check=False)


CODE = """
import importlib.util, sys
import adderc
assert adderc.__file__.startswith(sys.argv[1]), adderc.__file__
for room in ("lang", "ir", "passes", "realize", "pipeline", "reference"):
    assert importlib.util.find_spec("adderc." + room) is None, room
from adderc.nn.greedy import decode_one
from adderc.nn.module import AdderModule
from adderc.weights.file import load_model
stored = load_model("m.safetensors")
module = AdderModule(stored.structure, stored.values)
print(decode_one(module, module.format, (9999, 1)), module.add(9999, 9999))
print("adder nanogpt58" in stored.provenance["spec"]["text"])
"""


def test_a_model_file_loads_and_adds(place: Path) -> None:
    ran = python(place, "-c", CODE, str(place))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["10000", "19998", "True"]


def test_the_commands_that_start_from_a_model_work(place: Path) -> None:
    ran = python(place, "-m", "adderc", "add", "m.safetensors", "9999", "1")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "10000\n", "")
    ran = python(place, "-m", "adderc", "verify", "m.safetensors", "--samples", "200")
    assert ran.returncode == 0, ran.stderr
    assert "200 of 200 right" in ran.stdout


def test_the_python_interface_loads(place: Path) -> None:
    code = "import adderc; print(adderc.load('m.safetensors').add(905, 95))"
    ran = python(place, "-c", code)
    assert (ran.returncode, ran.stdout) == (0, "1000\n"), ran.stderr
