"""The command line as a whole: help, version, near misses, pipes, what it imports."""

import subprocess
import sys
from pathlib import Path

import pytest

import adderc

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "sympy", "scipy", "numpy", "networkx", "rich", "lark", "flint", "safetensors")


def test_help_and_version(adder):
    assert adder("--version").out == f"adderc {adderc.__version__}\n"
    ran = adder("--help")
    assert ran.code == 0
    for name in ("check", "compile", "add", "verify", "specs"):
        assert f"\n  {name} " in ran.out
        assert adder(name, "--help").code == 0
    assert adder().out == ran.out


@pytest.mark.parametrize(("word", "near"), [("verfy", "verify"), ("complie", "compile")])
def test_near_misses(adder, word, near):
    ran = adder(word)
    assert ran.code == 2
    assert f'did you mean "{near}"?' in ran.err


def test_an_unknown_command_is_json_where_asked(adder):
    assert "no such command" in adder("frobnicate", "--json").json["error"]


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom adderc.app import run\n"
        "for words in (['--help'], ['verify', '--help'], ['nonsense']): run(words)\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_cli_runs_the_same_from_anywhere(tmp_path):
    done = subprocess.run([sys.executable, str(ROOT / "cli.py"), "--version"], cwd=tmp_path,
                          capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"adderc {adderc.__version__}\n")


def test_a_reader_that_goes_away_is_no_crash():
    code = (
        "import sys, click\nfrom adderc import app\n"
        "@click.command('flood')\ndef flood():\n"
        "    for _ in range(10**5): click.echo('x' * 80)\n"
        "app.commands.add_command(flood)\nsys.exit(app.run(['flood']))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141


def test_the_package_offers_its_functions_lazily():
    code = ("import adderc, sys\nassert 'adderc.api' not in sys.modules\n"
            "assert set(adderc.__all__) >= {'load', 'compile', 'save'}\n")
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = adderc.nonsense
