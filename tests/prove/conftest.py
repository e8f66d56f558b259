"""Models for the proof tests, compiled once."""

import pytest
import torch

import adderc
from adderc.prove import checker, session


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def small():
    """Two decimal digits."""
    return adderc.compile("nanogpt58", width=2)


@pytest.fixture
def exported_once(monkeypatch):
    """Mutants differ in their leaves only, so one export serves them all."""
    made = {}
    capture = session.capture

    def once(module, lengths, sample, deadline):
        if id(module) not in made:
            made[id(module)] = capture(module, lengths, sample, deadline)
        return made[id(module)]

    monkeypatch.setattr(session, "capture", once)


@pytest.fixture
def read_once(monkeypatch):
    """The same for the checker."""
    made = {}
    export = checker._Check._export

    def once(check):
        if id(check.model) not in made:
            made[id(check.model)] = check.model, export(check)
        return made[id(check.model)][1]

    monkeypatch.setattr(checker._Check, "_export", once)
