"""The walls between the rooms: who may import whom."""

import house_imports as imports
import pytest

GROUND = {"errors", "results", "format"}
JUDGED = GROUND | {"weights", "nn", "reference"}
JUDGES = ("verify", "prove", "audit", "trace", "export")
COMPILER = GROUND | {"lang", "weights", "ir", "reference"}
EVERY_ROOM = COMPILER | {"passes", "realize", "solve", "nn", "train", "report", *JUDGES}

MAY_IMPORT = {
    "errors": set(),
    "results": {"errors"},
    "format": {"errors", "results"},
    "lang": GROUND,
    "weights": GROUND,
    "ir": GROUND,
    "reference": GROUND | {"lang"},
    "passes": COMPILER,
    "realize": COMPILER | {"passes"},
    "solve": COMPILER | {"passes", "realize"},
    "nn": GROUND | {"weights"},
    "train": COMPILER | {"passes", "realize", "solve", "nn"},
    **dict.fromkeys(JUDGES, JUDGED),
    "report": EVERY_ROOM,
    "pipeline": EVERY_ROOM,
    "api": EVERY_ROOM | {"pipeline"},
    "app": EVERY_ROOM | {"pipeline"},
    "adderc": {"api"},
}

GRAPH = imports.graph()


@pytest.mark.parametrize("module", sorted(GRAPH))
def test_a_room_imports_only_what_it_may(module):
    own = imports.room(module)
    assert own in MAY_IMPORT, f"{module}: name the room {own} and what it may import here"
    others = {imports.room(target): target for target in GRAPH[module]}
    wrong = {target for other, target in others.items() if other not in {own, *MAY_IMPORT[own]}}
    assert not wrong, f"{module} must not import {sorted(wrong)}"


def test_no_import_cycle():
    state, path = {}, []

    def visit(module):
        path.append(module)
        assert state.get(module) != "open", " -> ".join(path[path.index(module):])
        if module not in state:
            state[module] = "open"
            for target in sorted(GRAPH[module]):
                visit(target)
            state[module] = "done"
        path.pop()

    for module in sorted(GRAPH):
        visit(module)


def test_running_a_model_needs_no_compiler():
    """Whatever a model file needs to load and add never reaches lang, passes or realize."""
    reached, todo = set(), ["adderc.nn.module", "adderc.weights.file", "adderc.verify.run",
                            "adderc.report.text", "adderc.report.jsonout"]
    while todo:
        module = todo.pop()
        if module in GRAPH and module not in reached:
            reached.add(module)
            todo += GRAPH[module]
    rooms = {imports.room(module) for module in reached}
    assert len(reached) > 10
    assert not rooms & {"lang", "passes", "realize", "solve", "ir", "train", "pipeline"}


def test_the_reader_of_imports_sees_every_kind(tmp_path):
    package = tmp_path / "adderc"
    (package / "room").mkdir(parents=True)
    for name, text in {
        "__init__": "", "a": "", "b": "", "c": "", "d": "",
        "room/__init__": "from . import inner\nfrom .. import d",
        "room/inner": "import adderc.a, os\nfrom adderc import b\nfrom adderc import __version__\n"
                      "def f():\n    from ..c import x",
    }.items():
        (package / f"{name}.py").write_text(text)
    found = imports.graph(package)
    assert found["adderc.room.inner"] == {"adderc.a", "adderc.b", "adderc.c"}
    assert found["adderc.room"] == {"adderc.room.inner", "adderc.d"}
    assert imports.room("adderc.app_models") == imports.room("adderc.app") == "app"
