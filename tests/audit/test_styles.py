"""Models written in other ways: what is audited, and what is said of those that cannot be."""

import pytest
from sources import ROTATION

from adderc.errors import InputError, Undecided
from adderc.format.number import NumberFormat
from adderc.format.prompt import Format, OperandDigits, Symbols

NUMBER = NumberFormat(10, 10)
FORMAT = Format(NUMBER, (OperandDigits(0, "msd"), Symbols("+"), OperandDigits(1, "msd"),
                         Symbols("=")), tokens=(("+", 0), ("=", 0)))

HEAD = '''
import math
import torch
from torch import nn
from torch.nn import functional as F


def add(model, a, b):
    tokens = [int(c) for c in f"{a:010d}{b:010d}"]
    for _ in range(11):
        logits = CALL
        tokens.append(int(logits[0, -1].argmax()))
    return int("".join(str(t) for t in tokens[20:]))

'''

BODY = '''
def attend(x):
    s = (x @ x.transpose(-2, -1) / math.sqrt(x.shape[-1]))
    s = s + torch.triu(torch.full((x.shape[1], x.shape[1]), float("-inf")), 1)
    return s.softmax(-1) @ x

'''

FUNCTIONAL = HEAD.replace("CALL", "run(model, torch.tensor([tokens]))") + BODY + '''
def run(state, tokens):
    x = state["table"][tokens]
    return attend(x) @ state["inner"]["head"] * 5.5


def build_model():
    torch.manual_seed(0)
    return {"table": torch.randn(10, 3), "inner": {"head": torch.randn(3, 10)}}, {}
'''

CLOSURE = HEAD.replace("CALL", "model(torch.tensor([tokens]))") + BODY + '''
def build_model():
    torch.manual_seed(0)
    table, head = torch.randn(10, 3), torch.randn(3, 10)
    return (lambda tokens: attend(table[tokens]) @ head), {"params": 60}
'''

SIGNATURE = HEAD.replace(
    "CALL", "model(torch.tensor([tokens]), positions=torch.arange(len(tokens)), flag=True)[0]"
) + BODY + '''
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 4)
        self.place = nn.Embedding(40, 4)
        self.norm = nn.LayerNorm(4)
        self.up = nn.Linear(4, 6)
        self.down = nn.Linear(6, 4)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight.requires_grad_(False)

    def forward(self, tokens, positions=None, flag=False):
        x = self.table(tokens) + self.place(positions)
        x = x + attend(self.norm(x))
        x = x + self.down(F.gelu(self.up(x)))
        return self.head(x), {"hidden": x}


def build_model():
    torch.manual_seed(0)
    return Net(), {}
'''

LISTED = HEAD.replace("CALL", "model.logits(tokens)") + BODY + '''
class Net:
    def __init__(self):
        self.table = torch.randn(10, 3)

    def logits(self, tokens):
        x = self.table[torch.tensor([tokens])]
        return attend(x) @ self.table.T


def build_model():
    return Net(), {}
'''

TORCH = HEAD.replace("CALL", "model(torch.tensor([tokens]))") + '''
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, tokens):
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        x = self.layer(self.table(tokens), src_mask=mask, is_causal=True)
        x = x + self.attention(x, x, x, attn_mask=mask)[0]
        return x @ self.table.weight.T


def build_model():
    return Net(), {}
'''

BRANCHING = HEAD.replace("CALL", "model(torch.tensor([tokens]))") + '''
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(10, 10))

    def forward(self, tokens):
        if tokens.sum().item() > 5:
            return self.table[tokens] * 2
        return self.table[tokens]


def build_model():
    return Net(), {}
'''


def test_a_function_of_a_dictionary(audit, numbers):
    report = audit(FUNCTIONAL)
    assert {leaf.name: leaf.elements for leaf in report.leaves} == {
        "table": 30, "inner.head": 30}
    assert report.counts.declared == 60
    assert numbers(report) == [5.5]
    assert any("counted as stored" in remark for remark in report.remarks)


def test_a_closure_holds_hidden_tensors(audit):
    report = audit(CLOSURE)
    assert report.counts.declared == 0
    held = [c for c in report.constants if c.form == "closure tensor"]
    assert [len(c.values) for c in held] == [30, 30]
    assert report.counts.strict == 60


def test_keywords_tuples_frozen_parameters_and_learned_positions(audit, numbers):
    report = audit(SIGNATURE)
    assert dict(report.components) == {
        "embedding": 40, "positions": 160, "norms": 8, "FFN in": 30, "FFN out": 28, "head": 40}
    kinds = {leaf.name: leaf.kind for leaf in report.leaves}
    assert kinds["head.weight"] == "frozen parameter"
    assert numbers(report) == []
    assert report.counts.strict_positional == report.counts.declared == 306
    assert report.counts.dense == 306


def test_torch_own_layers(audit, numbers):
    report = audit(TORCH)
    assert numbers(report) == []
    assert report.counts.strict == report.counts.declared
    parts = {leaf.name: leaf.component for leaf in report.leaves}
    assert parts["layer.linear1.weight"] == "FFN in"
    assert parts["layer.linear2.weight"] == "FFN out"
    assert parts["layer.norm1.weight"] == "norms"
    assert parts["attention.in_proj_weight"] == "attention Q + attention K + attention V"
    assert parts["attention.out_proj.weight"] == "attention O"
    assert parts["table.weight"] == "embedding + head"


def test_tokens_as_python_numbers(audit):
    report = audit(LISTED)
    assert (report.counts.declared, report.counts.strict) == (30, 30)
    one_by_one = ("self.table[torch.tensor([tokens])]",
                  "torch.stack([self.table[t] for t in tokens])[None]")
    with pytest.raises(Undecided, match="as Python numbers"):
        audit(LISTED, one_by_one)


def test_a_branch_on_token_values_is_not_guessed(audit):
    with pytest.raises(Undecided, match="not audited") as caught:
        audit(BRANCHING)
    assert caught.value.exit_code == 3
    assert "export" in str(caught.value)


def test_without_add_a_format_is_needed(audit, numbers):
    silent = ROTATION.split("def add(")[0]
    with pytest.raises(Undecided, match="--format"):
        audit(silent)
    report = audit(silent, form=FORMAT, sums=[(12, 34), (999, 1), (90, 10)])
    assert (report.counts.declared, report.counts.strict_positional) == (51, 54)
    assert numbers(report) == []


@pytest.mark.parametrize(("text", "words"), [
    ("x = 1", "no build_model"),
    ("def build_model(:", "not Python"),
    ("def build_model():\n    raise ValueError('no weights')", "no weights"),
    ("def build_model():\n    return 5, {}\ndef add(model, a, b):\n    return a + b",
     "calls nothing that returns logits"),
])
def test_files_that_are_no_models(audit, text, words):
    with pytest.raises((InputError, Undecided), match=words):
        audit(text)


def test_foreign_code_runs_only_with_trust(tmp_path):
    from adderc.nn.thirdparty import load_python

    path, mark = tmp_path / "m.py", tmp_path / "ran"
    path.write_text(f"open({str(mark)!r}, 'w').close()\ndef build_model():\n    return 1, {{}}\n",
                    encoding="utf-8")
    with pytest.raises(InputError, match="--trust-code"):
        load_python(str(path), False)
    assert not mark.exists()
    load_python(str(path), True)
    assert mark.exists()


def test_weights_drawn_from_a_seed_in_the_forward_pass(audit):
    drawn = ("x = self.table[torch.tensor([tokens])]",
             "torch.manual_seed(3)\n        x = torch.randn(10, 3)[torch.tensor([tokens])]")
    with pytest.raises(Undecided, match="random numbers"):
        audit(LISTED, drawn)


def test_a_trace_that_does_not_repeat_the_model(audit):
    state = ("        x = self.table(tokens) + self.place(positions)",
             "        self.seen = getattr(self, 'seen', 0) + 1\n"
             "        x = self.table(tokens) * self.seen + self.place(positions)")
    with pytest.raises(Undecided, match="does not repeat"):
        audit(SIGNATURE, state)


def test_tensors_filled_by_hand_are_parameters_of_a_plain_class(audit, numbers):
    filled = ("self.table = torch.randn(10, 3)",
              "self.table = torch.zeros(10, 3)\n        self.table[:, 0] = torch.arange(10.0)\n"
              "        self.table[1, 2] = 3.7\n        self.table[4, 1] = 2.5")
    report = audit(LISTED, filled)
    assert (report.counts.declared, report.counts.scalars) == (30, 11)
    assert numbers(report) == []


def test_a_table_of_sines_in_a_buffer(audit, numbers):
    made = ("self.place = nn.Embedding(40, 4)",
            "p = torch.zeros(40, 4)\n"
            "        for i in range(40):\n"
            "            p[i, 0] = 3.5 * math.sin(i * 2 * math.pi / 11)\n"
            "            p[i, 1] = 3.5 * math.cos(i * 2 * math.pi / 11)\n"
            "        self.register_buffer('place', p, persistent=False)")
    used = ("self.place(positions)", "self.place[:tokens.shape[1]]")
    report = audit(SIGNATURE, made, used)
    assert numbers(report) == []
    assert numbers(report, "positional") == [3.5, 11]
    assert report.counts.strict_positional == report.counts.declared + 2
