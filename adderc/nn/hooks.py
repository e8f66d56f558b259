"""Hook points: a named identity on every interior value of a module.

Takes: a structure. Gives: the tree of hook points of its module, with shapes.
May import: weights.structure.

Names are stable: `embed`, `position`, `start`, `blocks.N.attention.q`, `blocks.N.ffn.pre`,
`blocks.N.out`, `logits`. B batch, T tokens (queries), S keys, D d_model, H heads,
E head_dim, F hidden units, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor, nn

from adderc.weights.structure import Block, Structure


class HookPoint(nn.Module):
    """Returns its input; `register_forward_hook` sees the value or replaces it."""

    def __init__(self, shape: str) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, value: Tensor) -> Tensor:
        return value

    def extra_repr(self) -> str:
        return f"[{self.shape}]"


def hook_shapes(structure: Structure) -> dict[str, str]:
    """Every hook point's name and shape, in the order of computation."""
    shapes = {"embed": "B T D"}  # token embedding
    if structure.position is not None:
        shapes["position"] = "T D"  # what is added for the positions
    shapes["start"] = "B T D"  # residual before the first block
    for number, block in enumerate(structure.blocks):
        for name, shape in _block_shapes(block).items():
            shapes[f"blocks.{number}.{name}"] = shape
    if structure.final_norm is not None:
        shapes["final_norm"] = "B T D"
    shapes["logits"] = "B T V"
    return shapes


def _block_shapes(block: Block) -> dict[str, str]:
    shapes: dict[str, str] = {}
    if (attention := block.attention) is not None:
        if block.attention_norm is not None:
            shapes["attention_norm"] = "B T D"
        shapes |= {f"attention.{name}": "B H T E" for name in ("q", "k", "v")}
        if attention.rope is not None:
            shapes |= {f"attention.{name}": "B H T E" for name in ("q_turned", "k_turned")}
        shapes |= {
            "attention.scores": "B H T S",  # scaled, with slopes, masked with -inf
            "attention.pattern": "B H T S",  # after softmax
            "attention.z": "B H T E",  # pattern @ v
            "attention.out": "B T D",  # what attention adds to the residual
        }
    shapes["mid"] = "B T D"  # residual between the halves
    if (ffn := block.feed_forward) is not None:
        if block.feed_forward_norm is not None:
            shapes["feed_forward_norm"] = "B T D"
        shapes["ffn.pre"] = "B T F"  # before the activation
        if ffn.gate is not None:
            shapes["ffn.gate"] = "B T F"
        shapes |= {
            "ffn.post": "B T F",  # activated, and gated where there is a gate
            "ffn.out": "B T D",  # what the feed-forward half adds to the residual
        }
    shapes["out"] = "B T D"  # residual after the block
    return shapes


def hook_tree(points: dict[str, HookPoint]) -> nn.Module:
    """The points as nested modules, so that `named_modules` gives their dotted names."""
    root = nn.Module()
    for name, point in points.items():
        place, parts = root, name.split(".")
        for part in parts[:-1]:
            if part not in place._modules:
                place.add_module(part, nn.Module())
            place = place.get_submodule(part)
        place.add_module(parts[-1], point)
    return root
