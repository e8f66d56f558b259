"""What the solver's tests share: small problems, and the contexts of a whole spec."""

import numpy as np

from adderc import pipeline
from adderc.errors import Source
from adderc.lang.contexts import every_context
from adderc.solve.cases import cases_of
from adderc.solve.contexts import truth_table
from adderc.solve.problem import Problem, Wording

STATES = """adder states
number { base BASE  width WIDTH  operands 2 }
format { prompt lsd(pair(a, b)) "start"; answer lsd(s); tokens "start" -> 0 }
algorithm { t = a[i] + b[i] + carry(s[i-1]); emit (t mod base, t div base) }
model {
    layers 1  d_model 2  dtype float32
    embed table
    position routes(0, width)
    attention { q dense; k dense; v dense; out dense }
    ffn relu HIDDEN
    decode tied
}
weights { solve { NORM } }
"""


def states_spec(base=2, width=6, hidden=4, norm="norm 5.417"):
    text = STATES
    for name, value in (("BASE", base), ("WIDTH", width), ("HIDDEN", hidden), ("NORM", norm)):
        text = text.replace(name, str(value))
    return Source("states.adder", text)


def spec_with(name, weights, **changes):
    """A packaged spec with another weights part, and pieces of its text replaced."""
    text = pipeline.read_spec(name).text
    text = text[: text.index("weights {")] + f"weights {{ {weights} }}\n"
    for old, new in changes.get("replace", ()):
        assert old in text
        text = text.replace(old, new)
    return Source(f"{name}.adder", text)


def problem_of(source, norm=5.417, width=None):
    """The whole-model problem of a spec that is solved as a whole, and its truth table."""
    from adderc.pipeline.driver import read_model, settle
    from adderc.pipeline.solve import solve_rules, task_of

    settings = pipeline.Settings(width=width)
    checked = settle(pipeline.parse(source), settings, unchecked=False)
    choices, given = read_model(checked, settings)
    _, task = task_of(checked, choices, given, solve_rules(checked))
    contexts = every_context(checked)
    cases = cases_of(checked, contexts, task.structure, range(checked.format.steps))
    wording = Wording(("a", "b"), 0, contexts.digits, contexts.answers,
                      checked.format.first_state)
    problem = Problem(task.structure, task.unknown, {}, cases, np.zeros(len(cases)), norm, wording)
    return problem, truth_table(checked, contexts, True)
