"""From a spec to weights. `driver` runs the stages; `derived` lowers; `specs` finds files.

Takes: spec files and settings. Gives: what the commands and the Python interface call.
May import: every room but app.
"""

from adderc.lang.parse import parse
from adderc.pipeline.derived import best_weights, context_values, flattened, lower_aligned
from adderc.pipeline.driver import check_spec, compile_spec, planned_spec, read_model, settle
from adderc.pipeline.records import Compiled
from adderc.pipeline.settings import Settings
from adderc.pipeline.solve import SolverOptions
from adderc.pipeline.specs import list_specs, read_spec

__all__ = [
    "Compiled",
    "Settings",
    "SolverOptions",
    "best_weights",
    "check_spec",
    "compile_spec",
    "context_values",
    "flattened",
    "list_specs",
    "lower_aligned",
    "parse",
    "planned_spec",
    "read_model",
    "read_spec",
    "settle",
]
