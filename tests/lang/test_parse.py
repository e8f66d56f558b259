"""The parser: the tree of an example, where lines end, spans, keywords as names."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from fractions import Fraction

import pytest

from adderc.errors import Source, Span
from adderc.lang import syntax as s
from adderc.lang.grammar import keywords, literals
from adderc.lang.parse import parse

RIPPLE = """# a comment
adder ripple-2                     # another

number { base 10  width 2 * 5
         operands 2; max 9999999999 }

format {
    prompt  msd(a) "+" lsd(pair(a, b)) "0" * (width - 1)
    answer  lsd(s) "<eos>"
    tokens  "+" -> 0, "=" -> 0,
            "x" -> "+"
}

algorithm {
    x     = a[i] + b[i]
    carry = (a[i-1] +
             b[ i - 1 ]) > s[i-1]
    emit (x + carry) mod base
}

model {
    layers 1  d_model 4  dtype float32
    position  sinusoid(period = width + 1, gain = G until "=", 1)
    residual  token - prev, sin
    heads     rotation(x), rotation(prev)
    attention { q rotation; v rank 1 }
    ffn       relu 4
    { rows shared in pairs }
}

weights {
    derive attention, decode; solve ffn { margin 0.5 }
    given layer1.q.scale = [[-100, 1], [0, 1e-6]]
    train { steps 100; optimizer adamw(lr = 0.02) }
}
"""


def number(value: str | int) -> s.Number:
    return s.Number(Fraction(value))


def entry(key: str, *atoms: s.Expr, block: tuple[s.Entry, ...] = ()) -> s.Entry:
    return s.Entry(key, (s.Item(atoms),), block)


A, B, S = (lambda offset, name=name: s.Digit(name, offset) for name in "abs")
X, ONE = s.Name("x"), number(1)
EXPECTED = s.Spec(
    name="ripple-2",
    number=(
        s.Setting("base", number(10)),
        s.Setting("width", s.Binary("*", number(2), number(5))),
        s.Setting("operands", number(2)),
        s.Setting("max", number(9999999999)),
    ),
    format=s.FormatPart(
        prompt=(
            s.Segment("digits", order="msd", operands=("a",)),
            s.Segment("symbol", "+"),
            s.Segment("pairs", order="lsd", operands=("a", "b")),
            s.Segment("symbol", "0", count=s.Binary("-", s.Name("width"), ONE)),
        ),
        answer=(s.Segment("digits", order="lsd", operands=("s",)), s.Segment("symbol", "<eos>")),
        tokens=(s.TokenRule("+", number(0)), s.TokenRule("=", number(0)),
                s.TokenRule("x", s.Text("+"))),
    ),
    algorithm=s.AlgorithmPart(
        definitions=(
            s.Definition("x", s.Binary("+", A(0), B(0))),
            s.Definition("carry", s.Compare(">", s.Binary("+", A(-1), B(-1)), S(-1))),
        ),
        emit=s.Binary("mod", s.Binary("+", X, s.Name("carry")), s.Name("base")),
    ),
    model=(
        entry("layers", ONE),
        entry("d_model", number(4)),
        entry("dtype", s.Name("float32")),
        entry("position", s.Call("sinusoid", (), (
            s.Option("period", s.Binary("+", s.Name("width"), ONE)),
            s.Option("gain", s.Name("G"), (s.Gain(s.Name("G"), "="), s.Gain(ONE, None))),
        ))),
        s.Entry("residual", (
            s.Item((s.Binary("-", s.Name("token"), s.Name("prev")),)), s.Item((s.Name("sin"),)))),
        s.Entry("heads", (
            s.Item((s.Call("rotation", (X,)),)), s.Item((s.Call("rotation", (s.Name("prev"),)),)))),
        s.Entry("attention", (), (entry("q", s.Name("rotation")),
                                  entry("v", s.Name("rank"), ONE))),
        entry("ffn", s.Name("relu"), number(4), block=(
            entry("rows", s.Name("shared"), s.Name("in"), s.Name("pairs")),)),
    ),
    weights=(
        s.WeightRule("derive", ("attention", "decode")),
        s.WeightRule("solve", ("ffn",), block=(entry("margin", number("0.5")),)),
        s.WeightRule("given", ("layer1.q.scale",), s.Sequence((
            s.Sequence((s.Unary("-", number(100)), ONE)),
            s.Sequence((number(0), number("0.000001"))),
        ))),
        s.WeightRule("train", (), block=(
            entry("steps", number(100)),
            entry("optimizer", s.Call("adamw", (), (s.Option("lr", number("0.02")),))),
        )),
    ),
)


def read(text: str) -> s.Spec:
    return parse(Source("t", text))


def algorithm(text: str) -> s.AlgorithmPart:
    spec = read('adder t\nnumber { }\nformat { prompt "+"; answer "+" }\nmodel { }\n'
                f"algorithm {{\n{text}\n}}")
    assert spec.algorithm is not None
    return spec.algorithm


def test_the_tree_of_an_example() -> None:
    assert read(RIPPLE) == EXPECTED


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_parts_in_any_order_and_any_line_end(end: str) -> None:
    text = RIPPLE.replace("\n", end)
    parts = text.split(end + end)
    assert len(parts) == 6
    assert read(text) == EXPECTED
    assert read(end.join(reversed(parts))) == EXPECTED


def nodes(node: object) -> list[object]:
    """Every dataclass node of a tree."""
    if isinstance(node, tuple):
        return [inner for part in node for inner in nodes(part)]
    if not is_dataclass(node) or isinstance(node, Span | Source):
        return []
    return [node, *(n for f in fields(node) for n in nodes(getattr(node, f.name)))]


def test_the_span_of_a_node_is_its_text() -> None:
    spec = read(RIPPLE)
    assert spec.span == Span(0, len(RIPPLE), 1, 1)
    seen = 0
    for node in nodes(spec)[1:]:
        span: Span = node.span  # type: ignore[attr-defined]
        if span.line == 0:
            assert node == ONE  # the count of a symbol that is not repeated
            continue
        seen += 1
        text = RIPPLE[span.start : span.end]
        assert text == text.strip()
        before = RIPPLE[: span.start]
        assert span.line == before.count("\n") + 1
        assert span.column == len(before.rpartition("\n")[2]) + 1
        match node:
            case s.Number() | s.Name() | s.Digit() | s.Binary() | s.Compare() | s.Call():
                assert algorithm(f"emit ({text})").emit == node
            case s.Definition(name, value):
                assert text.startswith(name)
                assert text.endswith(RIPPLE[value.span.start : value.span.end])
            case s.Entry(key) | s.Setting(key) | s.Option(key):
                assert text.startswith(key)
            case s.WeightRule(action):
                assert text.startswith(action)
            case s.FormatPart():
                assert text.startswith("format {")
                assert text.endswith("}")
    assert seen > 80


def test_names_of_keywords_stay_free_in_the_algorithm() -> None:
    words = [word for word in literals().values() if word.isidentifier()]
    reserved = {"if", "then", "else", "and", "or", "not", "div", "mod", "until", "through", "emit"}
    free = sorted(set(words) - reserved)
    assert {"base", "layers", "q", "steps", "number", "i", "msd"} <= set(free)
    lines = "\n".join(f"{word} = {word} + 1" for word in free)
    part = algorithm(f"{lines}\nemit {' + '.join(free[:50])}")
    assert [definition.name for definition in part.definitions] == free


def test_keywords_stay_free_as_arguments() -> None:
    text = RIPPLE.replace("rotation(x), rotation(prev)", "layers, out, tied(q, k)")
    (heads,) = (e for e in read(text).model if e.key == "heads")
    names = [item.atoms[0] for item in heads.items]
    assert names == [s.Name("layers"), s.Name("out"), s.Call("tied", (s.Name("q"), s.Name("k")))]


@pytest.mark.parametrize("text", [
    "x = a[i]\n+ b[i]\nemit x",
    "x = (a[i]\n\n# between\n + b[i])\nemit x",
    "emit x; x = a[i] + b[i]",
    "# first\n;; x = a[i] + b[i] ;\n\nemit x;",
])
def test_where_an_entry_ends(text: str) -> None:
    part = algorithm(text)
    assert part.definitions == (s.Definition("x", s.Binary("+", A(0), B(0))),)
    assert part.emit == X


def test_a_condition_over_several_lines() -> None:
    part = algorithm("emit if x\n  then 1   # yes\n  else x")
    assert part.emit == s.If(X, ONE, X)


@pytest.mark.parametrize(("text", "value"), [
    ("10", 10), ("2.5", Fraction(5, 2)), ("1e-6", Fraction(1, 10**6)), ("1.5E+3", 1500),
    ("007", 7), ("0.1", Fraction(1, 10)),
])
def test_numbers_are_exact(text: str, value: Fraction) -> None:
    assert algorithm(f"emit {text}").emit == s.Number(Fraction(value))


def test_equals_compares_except_after_an_option_name() -> None:
    part = algorithm("x = a[i] = b[i]\nemit f(x == 1, k = x = 1)")
    assert part.definitions[0].value == s.Compare("==", A(0), B(0))
    equal = s.Compare("==", X, ONE)
    assert part.emit == s.Call("f", (equal,), (s.Option("k", equal),))


def test_quoted_symbols_may_hold_any_sign() -> None:
    spec = read('adder t number { } format { prompt "#" "\\"" "\\\\" "{"; answer ";" } model { }')
    assert [piece.text for piece in spec.format.prompt] == ["#", '"', "\\", "{"]


def test_a_stretch_ends_before_or_after_its_symbol() -> None:
    call = algorithm('emit f(g = G through "=", 2 until "+", 1)').emit
    assert isinstance(call, s.Call)
    assert call.options[0].stretches == (
        s.Gain(s.Name("G"), "=", inclusive=True), s.Gain(number(2), "+"), s.Gain(ONE, None))


def test_walk_meets_every_stretch() -> None:
    call = algorithm('emit f(g = G until "=", x + 1)').emit
    assert {node.name for node in s.walk(call) if isinstance(node, s.Name)} == {"G", "x"}


def test_the_lists_of_keys_come_from_the_grammar() -> None:
    assert keywords("number_key") == ("base", "width", "operands", "max")
    assert "ffn" in keywords("model_key")
    assert "steps" in keywords("option_key")
