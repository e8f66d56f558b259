import pytest
from training import task_for


@pytest.fixture(scope="session")
def small():
    """A task of two digits with a few hundred steps."""
    return task_for("small")
