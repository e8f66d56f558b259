"""The whole text of an exported file.

Takes: a structure, leaf values, provenance. Gives: `python_source`, `adderboard_source`.
May import: format, weights, export.expressions, export.forward.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np

from adderc.export.expressions import HELPERS, Expressions, identifier, values_code
from adderc.export.forward import Forward, helper_code
from adderc.format.prompt import DigitTuples, Format, OperandDigits, Symbols
from adderc.weights.expr import Constant, walk
from adderc.weights.structure import Rope, Sinusoid, Structure

Values = Mapping[str, np.ndarray]
ORDER = {"msd": "most significant digit first", "lsd": "least significant digit first"}


def python_source(structure: Structure, values: Values, provenance: Mapping[str, Any]) -> str:
    """A file with `Adder`, `encode`, `decode`, `add(a, b)`, and a command line."""
    names = ", ".join(structure.number.names)
    return _common(structure, values, provenance) + f'''

def add({names}):
    """The sum that the model writes, token by token; None where it writes no number."""
    return generate(model, {names})


model = Adder()

if __name__ == "__main__":
    import sys

    if len(sys.argv) != {structure.number.operands + 1}:
        sys.exit("give {_count(structure.number.operands)} operands")
    print(add(*map(int, sys.argv[1:])))
'''


def adderboard_source(structure: Structure, values: Values, provenance: Mapping[str, Any]) -> str:
    """The same with the public challenge's interface: `build_model()`, `add(model, a, b)`."""
    names = ", ".join(structure.number.names)
    metadata = "".join(f"        {json.dumps(key)}: {_literal(value)},\n"
                       for key, value in metadata_of(structure, provenance).items())
    return _common(structure, values, provenance) + f'''

def build_model():
    """The model, and what is to be known of it."""
    metadata = {{
{metadata}    }}
    return Adder(), metadata


def add(model, {names}):
    """The sum that the model writes, token by token; None where it writes no number."""
    return generate(model, {names})
'''


# ---------------------------------------------------------------- metadata


def metadata_of(structure: Structure, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Declared parameters, the architecture, and every number that is no parameter."""
    parameters = sum(int(np.prod(leaf.shape)) for leaf in structure.leaf_shapes())
    return {
        "name": _name(provenance),
        "params": parameters,
        "architecture": architecture(structure),
        "constants": constants_of(structure),
        "how": sorted({leaf.how for leaf in structure.leaves}),
    }


def _literal(value: Any) -> str:
    """A string, a number or a list of strings, one on a line."""
    if not isinstance(value, list):
        return json.dumps(value)
    return "[\n" + "".join(f"            {json.dumps(item)},\n" for item in value) + "        ]"


def architecture(structure: Structure) -> str:
    """`1 block, d_model 4, 2 heads of 2, 4 relu units, float32`."""
    parts = [f"{len(structure.blocks)} block" + "s" * (len(structure.blocks) != 1),
             f"d_model {structure.d_model}"]
    for block in structure.blocks:
        if block.attention is not None:
            parts.append(f"{block.attention.heads} head" + "s" * (block.attention.heads != 1)
                         + f" of {block.attention.head_dim}")
        if (ffn := block.feed_forward) is not None:
            parts.append(f"{ffn.up.shape[0]} {'gated ' if ffn.gate else ''}{ffn.activation} units")
    return ", ".join([*parts, structure.dtype])


def constants_of(structure: Structure) -> list[str]:
    """The numbers in the code that are neither parameters nor 0, 1 or -1."""
    found = []
    signal = structure.position
    if isinstance(signal, Sinusoid):
        gains = ", ".join(f"{float(gain):g} from position {first}" for first, gain in signal.gains)
        found.append(f"sinusoid of period {signal.period}, gain {gains} (positions only)")
    for rope in _ropes(structure):
        periods = ", ".join(map(str, rope.periods))
        found.append(f"rotary periods {periods} (positions only)")
    for place, expr in structure.expressions():
        for node in walk(expr):
            if isinstance(node, Constant):
                pi = f" * pi^{node.pi_power}" if node.pi_power else ""
                found.append(f"{node.rational}{pi} in {place}")
    return list(dict.fromkeys(found))


def _ropes(structure: Structure) -> list[Rope]:
    return [b.attention.rope for b in structure.blocks
            if b.attention is not None and b.attention.rope is not None]


def _name(provenance: Mapping[str, Any]) -> str:
    name = str((provenance.get("spec") or {}).get("name", "adder"))
    return name.removesuffix(".adder")


# ---------------------------------------------------------------- the parts both have


def _common(structure: Structure, values: Values, provenance: Mapping[str, Any]) -> str:
    expressions = Expressions()
    expressions.prepare(expr for _, expr in structure.expressions())
    body = Forward(structure, expressions).build()
    helpers = [HELPERS[name] for name in HELPERS if name in expressions.used]
    parts = [
        "\n\n".join([_docstring(structure, provenance), "import math", "import torch",
                     _constants(structure)]),
        *(code.strip("\n") for code in [*helpers, *helper_code(structure)]),
        _class(structure, values, body),
        _encode(structure.format),
        _decode(structure.format),
        _generate(structure),
    ]
    text = "\n\n\n".join(part.strip("\n") for part in parts) + "\n"
    return text if "math." in text else text.replace("import math\n\n", "", 1)


def _count(number: int) -> str:
    return {1: "one", 2: "two", 3: "three", 4: "four"}.get(number, str(number))


def _docstring(structure: Structure, provenance: Mapping[str, Any]) -> str:
    number, form = structure.number, structure.format
    parameters = sum(int(np.prod(leaf.shape)) for leaf in structure.leaf_shapes())
    version = (provenance.get("versions") or {}).get("adderc", "")
    prompt = []
    for segment in form.prompt:
        if isinstance(segment, OperandDigits):
            prompt.append(f"{number.names[segment.operand]} ({ORDER[segment.order]})")
        elif isinstance(segment, DigitTuples):
            prompt.append(f"one token per place, all operands' digits ({ORDER[segment.order]})")
        else:
            prompt.append(f'"{segment.text}"' + (f" {segment.count} times" * (segment.count > 1)))
    what = (f"{_name(provenance)}: a transformer that adds {_count(number.operands)} numbers of "
            f"{number.width} digits in base {number.base}.")
    made = f"{parameters} parameters; {architecture(structure)}."
    tokens = f"Prompt: {', '.join(prompt)}. Answer: {ORDER[form.answer_order]}."
    shapes = "B batch, T tokens, D d_model, H heads, E head_dim, F hidden units, V vocabulary."
    paragraphs = [what, f"{made} Written by adderc {version}; needs torch alone.", tokens, shapes]
    return '"""' + "\n\n".join(textwrap.fill(p, 92) for p in paragraphs) + '\n"""'


def _constants(structure: Structure) -> str:
    number = structure.number
    return "\n".join([
        f"BASE = {number.base}",
        f"WIDTH = {number.width}  # digits of an operand",
        f"MAXIMUM = {_maximum(structure)}  # the largest operand",
        f"STEPS = {structure.format.steps}  # answer tokens",
        f"DTYPE = torch.{structure.dtype}",
    ])


def _maximum(structure: Structure) -> str:
    number = structure.number
    return "BASE**WIDTH - 1" if number.limit is None else f"min(BASE**WIDTH - 1, {number.limit})"


def _class(structure: Structure, values: Values, body: list[str]) -> str:
    infos = {info.name: info for info in structure.leaves}
    lines = ["class Adder(torch.nn.Module):",
             '    """Tokens [B, T] to logits [B, T, V]; every parameter is written out."""', "",
             "    def __init__(self):", "        super().__init__()", "",
             "        def parameter(values):",
             "            return torch.nn.Parameter(torch.tensor(values, dtype=DTYPE))", ""]
    for leaf in structure.leaf_shapes():
        info = infos.get(leaf.name)
        shape = ", ".join(map(str, leaf.shape))
        note = f"{info.meaning}; {info.how}" if info and info.meaning else ""
        lines.append(f"        # [{shape}] {note}".rstrip(" "))
        head = f"        self.{identifier(leaf.name)} = parameter"
        lines.append(values_code(values[leaf.name], head, structure.dtype))
    lines += ["", "    def forward(self, tokens):",
              '        """Logits [B, T, V] of tokens [B, T]."""']
    lines += [f"        {line}" if line else "" for line in body]
    return "\n".join(lines)


def _encode(form: Format) -> str:
    names = form.number.names
    pieces = []
    for segment in form.prompt:
        if isinstance(segment, Symbols):
            tokens = f"[{form.ids[segment.text]}]"
            pieces.append(tokens + (f" * {segment.count}" if segment.count > 1 else ""))
        elif isinstance(segment, OperandDigits):
            back = "[::-1]" if segment.order == "msd" else ""
            pieces.append(f"digits_of({names[segment.operand]}){back}")
        else:
            pieces.append("tuples" + ("[::-1]" if segment.order == "msd" else ""))
    tuples = ""
    if any(isinstance(segment, DigitTuples) for segment in form.prompt):
        powers = range(len(names) - 1, -1, -1)
        token = " + ".join(name if power == 0 else f"{name} * BASE**{power}" if power > 1
                           else f"{name} * BASE" for name, power in zip(names, powers, strict=True))
        rows = ", ".join(f"digits_of({name})" for name in names)
        tuples = f"    tuples = [{token} for {', '.join(names)} in zip({rows})]\n"
    return f'''
def digits_of(value):
    """WIDTH digits, least significant first."""
    if not 0 <= value <= MAXIMUM:
        raise ValueError(f"{{value}} is not from 0 to {{MAXIMUM}}")
    found = []
    for _ in range(WIDTH):
        value, digit = divmod(value, BASE)
        found.append(digit)
    return found


def encode({", ".join(names)}):
    """The prompt's tokens."""
{tuples}    return {" + ".join(pieces)}
'''


def _decode(form: Format) -> str:
    order = "tokens" if form.answer_order == "lsd" else "tokens[::-1]"
    if form.answer_kind == "states":
        first = form.first_state
        states = f"[token - {first} for token in {order}]" if first else order
        return f'''
def decode(tokens):
    """The number that answer tokens write: digit + BASE * carry each, the last carry on top."""
    states = {states}
    if not all(0 <= state < BASE * {form.number.operands} for state in states):
        return None
    found = [state % BASE for state in states] + [states[-1] // BASE]
    return sum(digit * BASE**place for place, digit in enumerate(found))
'''
    return f'''
def decode(tokens):
    """The number that answer tokens write; None where one of them is no digit."""
    if not all(0 <= token < BASE for token in tokens):
        return None
    return sum(digit * BASE**place for place, digit in enumerate({order}))
'''


def _generate(structure: Structure) -> str:
    names = ", ".join(structure.number.names)
    return f'''
def generate(model, {names}):
    """Greedy decoding: the token of the largest logit, {structure.format.steps} times."""
    sequence = encode({names})
    answer = []
    with torch.inference_mode():
        for _ in range(STEPS):
            logits = model(torch.tensor([sequence]))[0, -1]
            if torch.isnan(logits).any():
                return None
            answer.append(int(torch.argmax(logits)))
            sequence.append(answer[-1])
    return decode(answer)
'''


