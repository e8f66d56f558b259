import pytest
from solving import problem_of, states_spec


@pytest.fixture(scope="session")
def binary():
    return problem_of(states_spec())
