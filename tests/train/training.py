"""Small specs to train on, and their tasks."""

import functools

from adderc.errors import Source
from adderc.lang.check import check_spec
from adderc.lang.parse import parse
from adderc.passes.plan import read_plan
from adderc.pipeline import Settings
from adderc.pipeline.train import TrainOptions, task_of
from adderc.realize.free import free_structure

HEAD = """
adder tiny
number { base 10  width 2  operands 2 }
format { prompt lsd(a) "+" lsd(b) "="  answer lsd(s) "<eos>" %s }
model {
    layers 1  dtype float32
    %s
}
weights { train {
    steps 300  batch 32  optimizer adamw(lr = 0.02)  schedule cosine(floor = 0.1)  warmup 20
    curriculum digits(1, steps = 100), digits(width)  carry mix(0.5, from = 100, to = 200)
    every 100  decay dropping(0.01, factor = 0.1, at = [0.02, 0.2])
} }
"""
TIED = 'tokens "+" -> 0, "=" -> 0, "<eos>" -> 0'
ARC = """d_model 5  residual token 2, position 3
    embed arc  position spiral(amplitude = 3.5, phase = 0, slope = 0.15, offset = 0,
                               learned = ["=", carry])
    heads 1  head_dim 5
    attention { q rotation(k); k dense(reads = position, size = 4)
                v transposed(decode, reads = token); out rank 1 }
    ffn gelu 2 { bias none; down transposed(decode) }  decode tied { weight dense }
    norm rms shared"""
RANKS = """d_model 6  embed dense  position table rank 2  heads 1
    attention { qkv rank 2; out rank 2 }  ffn relu 5  decode tied  norm layer"""
GATED = """d_model 4  embed rank 2  position table  heads 2
    attention { q dense; k tied(q); v dense; out dense }
    ffn swiglu 3 { bias dense }  decode dense { bias dense }  norm none"""
ROUTED = """d_model 4  embed dense  position routes(1, width + 2)  heads 1
    attention { v dense }  ffn tanh 3  decode tied  norm rms"""
LEARNED = ARC.replace("amplitude = 3.5, phase = 0, slope = 0.15, offset = 0,", "")
MODELS = {"small": (TIED, ARC), "learned spiral": (TIED, LEARNED), "ranks": ("", RANKS),
          "gated": ("", GATED), "routed": ("", ROUTED),
          "double": ("", RANKS.replace("d_model 6", "d_model 6  dtype float64"))}


def text_of(name):
    tokens, model = MODELS[name]
    text = HEAD % (tokens, model)
    return text.replace("layers 1  dtype float32", "layers 1") if "dtype" in model else text


@functools.cache
def checked_of(text):
    return check_spec(parse(Source("tiny.adder", text)))


def structure_of(text):
    checked = checked_of(text)
    return free_structure(read_plan(checked), checked)


def task_for(name, **options):
    text = text_of(name)
    return task_of(checked_of(text), Settings(), TrainOptions(**options), text)
