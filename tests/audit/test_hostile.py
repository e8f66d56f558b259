"""Ways to hide a number that a first look does not see; each with its answer by hand.

The honest model has 80 parameters and hides nothing; f = 3.5 is the number to be found.
"""

import pytest
from sources import SMALL, small

from adderc.errors import InputError, Undecided

CALL = "model(torch.tensor([tokens]))"
TEMPERED = ("y = F.scaled_dot_product_attention(q, k, v, is_causal=True)",
            "t = tokens.shape[1]\n        m = torch.ones(t, t).tril()\n        s = SCORES\n"
            "        y = s.softmax(-1) @ v")
STEPS = "G = [1.1, 2.2, 3.3, 4.4, 5.5]"

FOUND = {
    "a hook on the model": ([3.5], small(
        build="model.register_forward_hook(lambda m, i, o: o + 3.5 * o.tanh())"), ()),
    "behind a decoy of logits": ([3.5], SMALL, (
        ("return logits\n", "return {'logits': x, 'real': logits * 3.5}\n"),
        (CALL, CALL + "['real']"))),
    "before an argmax in forward": ([3.5], SMALL, (
        ("return logits\n", "return (logits * 3.5).argmax(-1)\n"),
        ("logits[0, -1].argmax()", "logits[0, -1]"))),
    "an imaginary number": ([3.5], small(
        mid="z = torch.view_as_complex(x.reshape(*x.shape[:-1], 2, 2)) * 3.5j\n"
            "x = torch.view_as_real(z).flatten(-2)"), ()),
    "a sum of ones": ([3], small(
        mid="x = x * (torch.ones(4) + torch.ones(4) + torch.ones(4)) + x.tanh()"), ()),
    "e from a one": ([2.71828], small(mid="x = x * torch.ones(4).exp() + x.tanh()"), ()),
    "a slice of an arange": ([5, 6, 7], small(
        mid="x = x * torch.cat([torch.arange(10.)[5:8], torch.ones(1)]) + x.tanh()"), ()),
    "an index into an arange": ([3, 7], small(
        mid="x = x * torch.arange(10.)[[3, 7]].repeat(2) + x.tanh()"), ()),
    "the steps of a linspace": ([0.333333], small(
        mid="x = x * torch.linspace(0, 1, 4) + x.tanh()"), ()),
    "copies summed": ([7], small(
        mid="x = x.unsqueeze(0).expand(7, *x.shape).sum(0) + x.tanh()"), ()),
    "half of an embedding of width 4": ([0.5], small(embed="x = x * 0.5"), ()),
    "an epsilon that is a number": ([0.001], small(mid="x = x / (x * 0 + 1e-3) + x.tanh()"), ()),
    "a branch on the length": ([3.5, 4.5], small(
        mid="x = x * (3.5 if tokens.shape[1] % 2 else 4.5) + x.tanh()"), ()),
    "a number for every step": ([1.1, 2.2, 3.3, 4.4, 5.5], small(
        top=STEPS, mid="x = x * gain + x.tanh()"), (
        ("def forward(self, tokens)", "def forward(self, tokens, gain)"),
        (CALL, "model(torch.tensor([tokens]), torch.tensor(G[len(out)]))"))),
    "a table of successors": ([2, 3, 4, 5, 6, 7, 8, 9], small(
        init="self.next = torch.tensor([3, 7, 4, 9, 0, 1, 2, 5, 6, 8])",
        embed="x = x + self.table[self.next[tokens]]"), ()),
    "autocast": ([3.5], small(
        mid="with torch.autocast('cpu', dtype=torch.bfloat16):\n"
            "    x = (x * 3.5 + x.tanh()).float()"), ()),
    "the default of attention written out": ([], SMALL, (
        (TEMPERED[0], TEMPERED[1].replace(
            "SCORES", "torch.einsum('bhtd,bhsd->bhts', q, k) / math.sqrt(4) + (1 - m) * -1e4")),)),
    "another temperature written out": ([0.3], SMALL, (
        (TEMPERED[0], TEMPERED[1].replace(
            "SCORES", "torch.einsum('bhtd,bhsd->bhts', q, k) * 0.3 + (1 - m) * -1e4")),)),
    "a memory shared with a parameter": ([], small(
        init="self.register_buffer('again', self.table.detach())",
        mid="x = x + F.embedding(tokens, self.again)"), ()),
    "shapes summed": ([7], small(
        mid="x = x * torch.ones(7, 4).tril().sum(0) + x.tanh()"), ()),
    "copies of every element summed": ([3], small(
        mid="x = x.repeat_interleave(3, dim=-1).sum(-1, keepdim=True) + x"), ()),
    "copies stacked and summed": ([3], small(
        mid="x = torch.stack([x, x, x]).sum(0) + x.tanh()"), ()),
    "the shift of a roll along the sequence": ([3], small(mid="x = x.roll(3, 1)"), ()),
    "text, bytes and the environment": ([2.5, 4.5, 35], small(
        top="import base64, os", mid="x = x * float(os.environ.get('NO_SUCH', '2.5')) + x.tanh()\n"
        "x = x * float(base64.b64decode('NC41')) + x.tanh()\nx = x * ord('#') + x.tanh()"), ()),
    "class attributes, exec, getattr and partial": ([1.5, 2.5, 3.5, 4.5], small(
        top="import functools\nG = {}\nexec('z = 1.5', G)\n"
            "def scale(x, k):\n    return x * k\nPART = functools.partial(scale, k=2.5)",
        init="type(self).K = torch.tensor(3.5)\nself.kq = 4.5",
        mid="x = x * G['z'] + PART(x).tanh()\nx = x * self.K + x.tanh()\n"
            "x = x * getattr(self, 'k' + 'q') + x.tanh()"), ()),
    "numpy arrays": ([1.5, 2.5, 3.5, 5.5], small(
        init="self.k = np.array([1.5, 2.5, 3.5, 5.5], dtype=np.float32)",
        mid="x = x * torch.from_numpy(self.k) + x.tanh()"), ()),
    "a default tensor and a keyword": ([3.5, 4.5], SMALL, (
        ("def forward(self, tokens)",
         "def forward(self, *, tokens, scale=torch.tensor(3.5), flag=None)"),
        ("# mid", "x = x * scale + x.tanh() * 4.5"),
        (CALL, "model(tokens=torch.tensor([tokens]))"))),
    "a clamp, a pad, a lerp, a power": ([0.3, 0.7, 0.9, 1.7, 3.5], small(
        mid="x = F.pad(torch.lerp(x.clamp(-0.7, 0.9), x.tanh(), 0.3), (0, 1), value=3.5)\n"
            "x = x[..., 1:].abs() ** 1.7"), ()),
    "integers of tokens": ([2, 3, 4, 6], small(
        mid="x = x + ((tokens % 3) + (tokens > 4).long() + (tokens & 6) + (tokens << 2))"
            "[..., None]"), ()),
    "another float, another integer": ([3.5, 1080030000], small(
        mid="x = (x.double() * 3.5).float()\n"
            "x = x * torch.tensor([1080033280]).int().view(torch.float32) + x.tanh()"), ()),
    "a parametrization": ([3.5], small(
        top="class P(nn.Module):\n    def forward(self, w):\n        return w * 3.5",
        build="import torch.nn.utils.parametrize as z\n"
              "z.register_parametrization(model, 'table', P())"), ()),
    "weights drawn from numpy's seed": ([0.0964975, 0.43651, 1.78863, 1.86349], small(
        mid="x = x * torch.from_numpy(np.random.RandomState(3).randn(4)).float() + x.tanh()"), ()),
    "objects with slots and a cache": ([1.5, 2.5, 3.5], small(
        top="import functools\nclass S:\n    __slots__ = ('k', 't')\n"
            "@functools.lru_cache\ndef made():\n    return torch.tensor([2.5, 0, 0, 1])",
        init="self.s = S()\nself.s.k, self.s.t = 3.5, torch.tensor([1.5, 0, 0, 1])",
        mid="x = x * self.s.k + x * self.s.t + x * made()"), ()),
    "a table filled from a parameter": ([], small(
        embed="w = torch.zeros(10, 4)\nw[:, :2] = self.table[:, :2]\n"
              "w[:, 2:] = self.table[:, 2:]\nx = w[tokens] @ w.T @ w"), ()),
}


@pytest.mark.parametrize("way", FOUND)
def test_what_is_hidden_is_found(audit, numbers, way):
    expected, source, changes = FOUND[way]
    report = audit(source, *changes)
    assert report.counts.declared == 80
    assert numbers(report) == expected
    assert report.counts.strict == 80 + len(expected)
    assert not report.dead


@pytest.mark.parametrize(("source", "words"), [
    (small(top="@torch.library.custom_op('own::act', mutates_args=())\n"
               "def act(x: torch.Tensor) -> torch.Tensor:\n    return x * 3.5\n"
               "act.register_fake(torch.empty_like)", mid="x = act(x) + x.tanh()"),
     "not one of torch's own"),
    (small(mid="x = x + torch.rand(4, generator=torch.Generator().manual_seed(5))"),
     "could not be traced"),
    (small(mid="if not torch.compiler.is_compiling():\n    x = x * 3.5 + x.tanh()"),
     "does not repeat"),
    (SMALL.replace(f"logits = {CALL}", f"{CALL}\n        logits = model.table[tokens][None] "
                                       "@ model.head * 3.5"), "does not follow"),
    (small(mid="x = x + torch.from_numpy(np.cos(tokens[0, :4].numpy())).float()"),
     "not audited"),
    (small(mid="k = {0: 1.5, 1: 2.5}\n"
               "x = x * torch.tensor([[k[int(t) % 2] for t in tokens[0]]])[..., None]"),
     "could not be traced"),
    (small(mid="t = tokens[0].tolist()\nif len(t) >= 20:\n"
               "    x = x + int(''.join(map(str, t[:10]))) + int(''.join(map(str, t[10:20])))"),
     "not audited"),
    (small(top="N = [0]", mid="N[0] += 1\nx = x * N[0]"), "does not repeat"),
    (small(mid="with torch.no_grad():\n    self.table.mul_(1.01)"), "does not repeat"),
    (SMALL.replace("return logits\n", "return (logits * 3.5)[0, -1].tolist()\n").replace(
        "logits[0, -1].argmax()", "torch.tensor(logits).argmax()"), "numpy is not followed"),
])
def test_what_cannot_be_followed_is_said(audit, source, words):
    with pytest.raises(Undecided, match=words) as caught:
        audit(source)
    assert str(caught.value).startswith("not audited")


LOOKED_AT = {  # a parameter read in a way that a trace may take for a literal
    "data": "self.k.data", "numpy": "torch.from_numpy(self.k.detach().numpy())",
    "state": "self.state_dict()['k']", "number": "self.k.item()",
}


@pytest.mark.parametrize("way", LOOKED_AT)
def test_a_parameter_stays_one_however_it_is_read(audit, numbers, way):
    report = audit(small(init="self.k = nn.Parameter(torch.tensor([3.5]))",
                         mid=f"x = x * {LOOKED_AT[way]} + x.tanh()"))
    assert (report.counts.declared, report.counts.strict) == (81, 81)
    assert numbers(report) == []
    assert not report.dead


def test_what_a_trace_gives_up_on_is_not_printed(audit, capsys):
    with pytest.raises(Undecided):
        audit(small(mid="x = x * {0: 1.5}.get(int(tokens[0, 0]), 2.5)"))
    assert capsys.readouterr() == ("", "")


def test_running_means_are_no_numbers_and_momentum_is_for_training(audit):
    report = audit(small(init="self.n = nn.BatchNorm1d(4)",
                         mid="x = self.n(x.transpose(1, 2)).transpose(1, 2)"))
    assert (report.counts.declared, report.counts.strict) == (88, 88)


def test_a_low_rank_product_beside_a_matrix(audit, numbers):
    report = audit(small(
        init="self.l = nn.Linear(4, 4)\nself.a = nn.Parameter(torch.randn(4, 1))\n"
             "self.b = nn.Parameter(torch.randn(1, 4))",
        mid="x = x @ (self.l.weight + 8.0 * self.a @ self.b)"))
    assert report.counts.declared == 80 + 20 + 8
    assert numbers(report) == [8]
    assert [note.name for note in report.dead] == ["l.bias"]


def test_parameters_made_at_the_first_call(audit, numbers):
    report = audit(small(
        init="self.lazy = nn.LazyLinear(4)",
        mid="if not hasattr(self, 'late'):\n    self.late = nn.Parameter(torch.ones(4) * 0.5)\n"
            "x = self.lazy(x) * self.late"))
    assert report.counts.declared == 80 + 20 + 4
    assert numbers(report) == []


def test_a_model_in_a_bundle_that_prints(audit, capsys):
    report = audit(small(
        top="from types import SimpleNamespace", mid="print('hello')",
        build="model = SimpleNamespace(inner=model, of='me')"), (CALL, CALL.replace(
            "model(", "model.inner(", 1)))
    assert report.counts.declared == 80
    assert capsys.readouterr().out == ""


def test_a_file_that_ends_the_program_is_an_error(audit):
    with pytest.raises(InputError, match="SystemExit"):
        audit(small(top="raise SystemExit(0)"))


def test_torch_is_left_as_it_was(tmp_path):
    import torch

    from adderc.app_audit import audit_python_file

    path = tmp_path / "wide.py"
    path.write_text(small(top="torch.set_default_dtype(torch.float64)"), encoding="utf-8")
    assert audit_python_file(str(path), None, True, False, False).counts.declared == 80
    assert torch.get_default_dtype() == torch.float32


RETURN = 'return int("".join(out))'


@pytest.mark.parametrize(("new", "words"), [
    ("return (lambda: a + b)()", "a + b"),
    ("def whole():\n        return a + b\n    return whole()", "a + b"),
    ("return eval('a' + '+b')", "may do anything"),
    ("return list(map(lambda p: p[0] + p[1], [(a, b)]))[0]", "p[0] + p[1]"),
    ("return {0: x + y for x, y in [(a, b)]}[0]", "x + y"),
    ("match 1:\n        case _:\n            return a + b", "a + b"),
    ("c, r = 0, 0\n    for i, d in enumerate(out):\n        r += (int(d) + c) * 10 ** i\n"
     "        c = int(d) // 5\n    return r", "what the model wrote"),
])
def test_the_answer_made_outside_the_model(audit, new, words):
    report = audit(SMALL, (RETURN, new), rules=True)
    assert any(words in note.reason for note in report.findings)
    assert report.rules[3].verdict != "pass"


@pytest.mark.parametrize("changes", [
    [(RETURN, "return sum(int(d) * 10 ** i for i, d in enumerate(reversed(out)))")],
    [("    out = []\n",
      "    return int(''.join(map(str, written(model, tokens))))\n    out = []\n"),
     ("def add(", "def written(model, seq):\n    for _ in range(5):\n        seq = "
      "[*seq, int(model(torch.tensor([seq]))[0, -1].argmax())]\n    return seq[20:]\n\n\n"
      "def add(")],
    [('[int(c) for c in f"{a:010d}{b:010d}"]',
      "[n // 10 ** i % 10 for n in (a, b) for i in range(10)]")],
])
def test_honest_ways_to_write_and_read_are_no_findings(audit, changes):
    report = audit(SMALL, *changes, rules=True)
    assert not report.findings
    assert report.rules[3].verdict == "pass"
    assert report.counts.strict == 80


def test_an_add_that_is_not_the_one_in_the_text():
    from adderc.audit.driver import inspect_add

    assert any("was not read" in note.reason for note in
               inspect_add(SMALL, lambda model, a, b: a + b))
