"""Numbers hidden in every way we know, each planted in an honest model, each found."""

import math

import pytest
from sources import PLAIN, ROTATION

from adderc.nn.thirdparty import load_python, run_add

HONEST = {"declared": 51, "strict": 51, "strict_positional": 54}


def test_the_honest_model_adds(tmp_path):
    path = tmp_path / "honest.py"
    path.write_text(ROTATION, encoding="utf-8")
    python = load_python(str(path), True)
    for a, b in [(0, 9000), (9999999999, 1), (1234567890, 9876543210), (999, 1)]:
        assert run_add(python, a, b) == a + b


def test_the_honest_model_hides_nothing(audit, numbers):
    report = audit(ROTATION)
    counts = report.counts
    assert {name: getattr(counts, name) for name in HONEST} == HONEST
    assert numbers(report) == []
    assert numbers(report, "positional") == [float(f"{2 * math.pi / 11:.6g}"), 20, 128]
    assert not report.dead
    assert not report.findings
    assert dict(report.components) == {
        "embedding": 14, "attention Q": 2, "attention K": 8, "attention V": 8,
        "attention O": 2, "FFN in": 12, "FFN out": 4, "head": 1,
    }
    assert report.leaves[0].line > 0


SLOPE = 'self.slope = nn.Parameter(torch.tensor(2.0))'
HIDDEN = {
    "literal": [(SLOPE, "pass"), ("self.slope *", "2.0 *")],
    "buffer": [(SLOPE, 'self.register_buffer("slope", torch.tensor(2.0))')],
    "non-persistent buffer": [
        (SLOPE, 'self.register_buffer("slope", torch.tensor(2.0), persistent=False)')],
    "raw attribute": [(SLOPE, "self.slope = torch.tensor(2.0)")],
    "Python attribute": [(SLOPE, "self.slope = 2.0")],
    "list of tensors": [(SLOPE, "self.slopes = [torch.tensor(2.0)]"),
                        ("self.slope *", "self.slopes[0] *")],
    "default argument": [(SLOPE, "pass"), ("def forward(self, tokens):",
                                           "def forward(self, tokens, slope=2.0):"),
                         ("self.slope *", "slope *")],
    "square root of a literal": [(SLOPE, "pass"), ("self.slope *", "math.sqrt(4.0) *")],
    "arange scale": [(SLOPE, "pass"), ("self.slope * z * digit - digit ** 2",
                     "z * torch.arange(0, 20, 2, dtype=x.dtype) - digit ** 2")],
    "lambda": [(SLOPE, "slope = 2.0\n        self.scaled = lambda z: slope * z"),
               ("self.slope * z", "self.scaled(z)")],
    "closure over a tensor": [
        (SLOPE, "slope = torch.tensor(2.0)\n        self.scaled = lambda z: slope * z"),
        ("self.slope * z", "self.scaled(z)")],
    "module-level tensor": [
        ("class Adder", "SLOPE = torch.tensor(2.0)\n\n\nclass Adder"), (SLOPE, "pass"),
        ("self.slope *", "SLOPE *")],
    "tensor made on the fly": [(SLOPE, "pass"), ("self.slope *", "torch.tensor(2.0) *")],
    "filled tensor": [(SLOPE, "pass"), ("self.slope *", "torch.full((), 2.0) *")],
    "picked from an arange": [(SLOPE, "pass"), ("self.slope *", "torch.arange(9.0)[2] *")],
    "a shape as a value": [(SLOPE, "pass"), ("self.slope *", "self.keys.shape[1] *")],
    "a sum of ones": [(SLOPE, "pass"), ("self.slope *", "torch.ones(2).sum() *")],
    "alpha of a sum": [(SLOPE, "pass"), ("self.slope * z * digit - digit ** 2",
                       "torch.sub(z * digit, digit ** 2, alpha=0.5)")],
}


@pytest.mark.parametrize("way", HIDDEN)
def test_a_weight_moved_out_of_the_parameters_is_found(audit, numbers, way):
    report = audit(ROTATION, *HIDDEN[way])
    assert report.counts.declared == 50
    assert numbers(report) == [0.5 if way == "alpha of a sum" else 2]
    assert report.counts.strict == 51
    assert report.counts.strict_positional == 54


def test_where_a_number_is_written_is_said(audit):
    report = audit(ROTATION, *HIDDEN["default argument"])
    (found,) = [c for c in report.constants if c.role == "hidden constant"]
    assert "default argument slope" in found.note
    assert found.line > 0


def test_the_embedding_scaled_by_a_literal(audit, numbers):
    report = audit(ROTATION, (
        "self.table = nn.Parameter(torch.arange(10.0)[:, None])", "pass"),
        ("self.table[tokens]", "(torch.arange(10.0)[:, None] * 7.25)[tokens]"))
    assert report.counts.declared == 41
    assert numbers(report) == [7.25]


def test_an_arange_alone_is_structure(audit, numbers):
    report = audit(ROTATION, (
        "self.table = nn.Parameter(torch.arange(10.0)[:, None])", "pass"),
        ("self.table[tokens]", "torch.arange(10.0)[:, None][tokens]"))
    assert (report.counts.declared, report.counts.strict) == (41, 41)


def test_a_temperature_in_the_softmax(audit, numbers):
    report = audit(ROTATION, ("is_causal=True)", "is_causal=True, scale=0.37)"))
    assert numbers(report) == [0.37]
    assert report.counts.strict == 52
    default = audit(ROTATION, ("is_causal=True)", "is_causal=True, scale=2 ** -0.5)"))
    assert default.counts.strict == 51


def test_a_tied_weight_untied(audit):
    tied = ("self.down = nn.Parameter(torch.tensor([0.01, -0.01, -1, 1]))",
            "self.down = nn.Parameter(torch.tensor([0.01, -0.01, -1, 1]))\n"
            "        self.more = self.down")
    used = ("(h @ self.down)", "(h @ (self.down + self.more) / 2)")
    report = audit(ROTATION, tied, used)
    assert report.counts.declared == 51
    assert not report.duplicates
    assert [leaf.ties for leaf in report.leaves if leaf.name == "down"] == [("more",)]
    untied = (tied[0], tied[1].replace("= self.down", "= nn.Parameter(self.down.clone())"))
    report = audit(ROTATION, untied, used)
    assert report.counts.declared == 55
    assert [(note.name, note.reason) for note in report.duplicates] == [
        ("more", "equal to down, stored twice")]


def test_dead_parameters(audit):
    report = audit(ROTATION, (SLOPE, SLOPE + "\n        self.idle = nn.Parameter(torch.ones(3))"))
    assert [(n.name, n.reason) for n in report.dead] == [("idle", "no path to the logits")]
    report = audit(
        ROTATION, (SLOPE, SLOPE + "\n        self.idle = nn.Parameter(torch.ones(1))"),
        ("z * digit - digit ** 2", "z * digit - digit ** 2 + 0.0 * self.idle"))
    assert [(n.name, n.reason) for n in report.dead] == [("idle", "multiplied by an exact 0")]
    assert report.counts.declared == 52


def test_an_insensitive_parameter_is_labelled_as_sampled(audit):
    report = audit(
        ROTATION, (SLOPE, SLOPE + "\n        self.faint = nn.Parameter(torch.tensor(1e-9))"),
        ("z * digit - digit ** 2", "z * digit - digit ** 2 + self.faint"),
        sums=[(12, 34), (999, 1), (5, 5)])
    reasons = {note.name: note.reason for note in report.insensitive}
    assert "sampled" in reasons["faint"]
    assert "3 sums" in reasons["faint"]
    assert "slope" not in reasons


def test_the_answer_computed_in_python(audit):
    report = audit(ROTATION, ('return int("".join(reversed(answer)))', "return a + b"),
                   rules=True)
    assert any("a + b" in note.reason for note in report.findings)
    verdicts = {rule.rule: rule.verdict for rule in report.rules}
    assert verdicts["no operand arithmetic outside the model"] == "fail"


@pytest.mark.parametrize(("old", "new", "words"), [
    ('f"{a:010d}"', 'f"{a + b:010d}"', "a + b"),
    ('f"{a:010d}"', 'f"{a ^ 1:010d}"', "a ^ 1"),
    ("        tokens.append(digit)", "        if a > b:\n            digit += 1\n"
     "        tokens.append(digit)", "branches on the operands"),
    ("        tokens.append(digit)", "        if digit > 5:\n            digit = 0\n"
     "        tokens.append(digit)", "branches on what the model wrote"),
    ('model(torch.tensor([tokens]))', "model.think(a, b)", "u + v"),
    ("def add(", "from other import add\n\n\ndef plus(", "was not read"),
    ("    answer = []", "    import secret\n    answer = secret.sum([a, b])", "secret.sum"),
])
def test_what_add_does_to_the_operands(old, new, words):
    from adderc.audit.driver import inspect_add

    thinks = "    def think(self, u, v):\n        return self(u + v)\n\n    def signal("
    notes = inspect_add(ROTATION.replace(old, new).replace("    def signal(", thinks))
    assert any(words in note.reason for note in notes)


def test_masks_and_epsilons_are_listed_not_counted(audit, numbers):
    report = audit(
        ROTATION,
        ("y = F.scaled_dot_product_attention(q, k, v, is_causal=True)",
         "seen = torch.ones(t, t).tril().bool()\n"
         "        s = (q @ k.transpose(-2, -1) / math.sqrt(2)).masked_fill(~seen, -1e9)\n"
         "        y = s.softmax(-1) @ v"),
        ("z = x[..., 3:4]", "x = x * torch.rsqrt((x * x).mean(-1, keepdim=True) * 0 + 1 + 1e-6)\n"
         "        z = x[..., 3:4]"))
    roles = {c.role for c in report.constants}
    assert {"mask fill", "epsilon", "internal"} <= roles
    assert numbers(report) == []


def test_a_shallow_mask_is_a_number(audit, numbers):
    report = audit(
        ROTATION,
        ("y = F.scaled_dot_product_attention(q, k, v, is_causal=True)",
         "seen = torch.ones(t, t).tril().bool()\n"
         "        s = (q @ k.transpose(-2, -1) / math.sqrt(2)).masked_fill(~seen, -1.5)\n"
         "        y = s.softmax(-1) @ v"))
    assert numbers(report) + numbers(report, "positional")
    assert 1.5 in numbers(report) + numbers(report, "positional")


def test_a_bias_spread_over_the_positions_is_no_position_signal(audit, numbers):
    report = audit(ROTATION, ("self.signal(t)", "self.signal(t) + torch.full((t, 4), 0.3)"))
    assert numbers(report) == [0.3]


def test_a_plain_class_with_raw_tensors(audit, numbers):
    report = audit(PLAIN)
    counts = report.counts
    assert (counts.declared, counts.scalars) == (3, 3)
    assert (counts.strict, counts.strict_positional) == (5, 6)
    assert [leaf.name for leaf in report.leaves] == ["ten", "one", "low"]
    assert numbers(report) == [15, 1e10]
    assert numbers(report, "positional") == [2.30259]
    assert {n.name: n.reason for n in report.derived} == {
        "table": "derived from one, ten", "shift": "derived from low"}


def test_constants_obtained_from_one_another_count_once(audit):
    with_one = audit(PLAIN, ("(near * WIDE).abs()", "(near * WIDE).abs() * (1 / WIDE)"))
    assert with_one.counts.strict == 5
    with_two = audit(PLAIN, ("(near * WIDE).abs()", "(near * WIDE).abs() * (3 / WIDE)"))
    assert with_two.counts.strict == 6
