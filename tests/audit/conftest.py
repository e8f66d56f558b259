"""`audit(source, …)`: the report on a Python model written in the test."""

import pytest

from adderc.audit.foreign import audit_python
from adderc.audit.recording import Recording
from adderc.nn.thirdparty import load_python


@pytest.fixture
def audit(tmp_path):
    def run(source, *changes, form=None, sums=(), rules=False):
        for old, new in changes:
            assert old in source, f"the model has no {old!r}"
            source = source.replace(old, new)
        path = tmp_path / "model.py"
        path.write_text(source, encoding="utf-8")
        recording = Recording()
        python = load_python(str(path), True, recording)
        return audit_python(python, recording, form, sums, rules)

    return run


@pytest.fixture
def numbers():
    """The counted magnitudes of a report by role, rounded to six figures."""
    def of(report, role="hidden constant"):
        return sorted({float(f"{v:.6g}") for c in report.constants if c.role == role
                       for v in c.values})

    return of
