"""Where anchors and digits stand, for heads that weigh by distance.

Takes: the checked spec's format, whether an anchor token is needed. Gives: `place_layout` →
`PlaceLayout`, or a `Refusal` that says which positions collide. May import: errors, format,
lang.

An anchor is a symbol with a token id of its own. Behind each, weights fall by the base with
every position, as place values do from the top digit down: so every number is written most
significant first, at the same distance from an anchor, and the answer behind one of its own.

The weights of plain softmax sum to 1. Where all keys score alike but for the distance, row p has
the denominator 1 + 1/B + ... + B^(1-p) and the weight of position 0; that is B/(B-1) in every row
if the first token weighs B/(B-1) times as much as others: it stands for all that would come
before it. So this first token has an id of its own and is no symbol of a number.
"""

from __future__ import annotations

from dataclasses import dataclass

from adderc.errors import Fault, Refusal
from adderc.format.number import NumberFormat
from adderc.format.prompt import Format, OperandDigits
from adderc.lang.checked import CheckedSpec


@dataclass(frozen=True)
class PlaceLayout:
    """Positions of the anchors, of each operand's top digit, and of the last prompt token.

    `distance` is how far each top digit stands behind its anchor; `start` is the token of
    position 0 in plain softmax.
    """

    number: NumberFormat
    format: Format
    anchors: tuple[int, ...]
    tops: tuple[int, ...]
    distance: int
    start: int | None = None

    @property
    def spare(self) -> int:
        """What softmax1 adds to a denominator."""
        return int(self.start is None)

    @property
    def last(self) -> int:
        """Position of the last prompt token: the first query."""
        return self.format.prompt_length - 1

    @property
    def length(self) -> int:
        """Tokens that are ever read."""
        return self.last + self.format.steps

    def before(self, position: int) -> tuple[int, ...]:
        """The prompt's anchors up to a position, the last prompt token left out."""
        return tuple(at for at in self.anchors if at <= position and at != self.last)


def place_layout(spec: CheckedSpec, anchored: bool = False) -> PlaceLayout:
    """The layout of a format that place values can be read from."""
    form, base = spec.format, spec.number.base
    cells = form.cells
    own = {text for text, token in form.tokens if token >= base}
    anchors = tuple(at for at, cell in enumerate(cells)
                    if cell.kind == "symbol" and cell.text in own)
    _check_kinds(spec)
    start = _start(spec) if anchored else None
    anchors = tuple(at for at in anchors if start is None or at > 0)
    tops = tuple(next(at for at, cell in enumerate(cells) if cell.operand == operand)
                 for operand in range(spec.number.operands))
    last = len(cells) - 1
    if last not in anchors:
        raise _collide(spec, "the prompt must end in a symbol with a token id of its own, from "
                       "which the answer's digits take their place", 'end it in "="')
    shared = [cells[at].text for at in anchors[:-1]
              if form.ids[cells[at].text] == form.ids[cells[last].text]]
    if shared:
        raise _collide(spec, f'"{shared[0]}" and "{cells[last].text}" share a token id, but the '
                       "digits behind one are added and those behind the other taken off",
                       "give them ids of their own")
    distances = []
    for operand, top in enumerate(tops):
        nearest = [at for at in anchors if at < top]
        if not nearest:
            raise _collide(spec, f"no symbol stands before operand {spec.number.names[operand]}, "
                           "so its digits have no place", 'begin the prompt with "bos"')
        distances.append(top - nearest[-1])
    if len(set(distances)) > 1:
        raise _collide(spec, "the operands stand at different distances behind their symbols: "
                       + ", ".join(map(str, distances)), "the same symbol before each, or none")
    return PlaceLayout(spec.number, form, anchors, tops, distances[0], start)


def _start(spec: CheckedSpec) -> int:
    """The token of position 0, which no other position has."""
    form, first = spec.format, spec.format.cells[0]
    token = form.ids[first.text] if first.kind == "symbol" else -1
    others = [form.ids[cell.text] for cell in form.cells[1:] if cell.kind == "symbol"]
    if token >= spec.number.base and token not in others:
        return token
    raise Refusal(kind="algorithm impossible", source=spec.source, faults=(Fault(
        "the weights of plain softmax sum to 1 in every row, so a row's place value depends on how "
        "many tokens stand before it, unless the first token makes up for those that do not: it "
        "must be a symbol with an id that no other has",
        hint='begin the prompt with "bos" "+", or write attention { softmax softmax1 }: its '
        "denominator plus one is the anchor"),))


def _check_kinds(spec: CheckedSpec) -> None:
    for segment in spec.format.prompt:
        if not isinstance(segment, OperandDigits) or segment.order != "msd":
            if isinstance(segment, OperandDigits):
                raise Refusal(kind="algorithm impossible", source=spec.source, faults=(Fault(
                    f"operand {spec.number.names[segment.operand]} is written least significant "
                    "first; weights fall with the distance behind a symbol, so its place values "
                    "would have to grow", hint="write msd(…)"),))
            if not hasattr(segment, "text"):
                raise Refusal(kind="not implemented", source=spec.source, faults=(Fault(
                    "place values of tokens that hold several digits"),))


def _collide(spec: CheckedSpec, message: str, hint: str) -> Refusal:
    return Refusal(kind="positions collide", source=spec.source,
                   faults=(Fault(message, hint=hint),))
