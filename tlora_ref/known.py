"""The linear layers of well-known models: names as in transformers, shapes (I, O) from the published configurations.

Sources     roberta-base, -large   Liu et al., arXiv 1907.11692 (the sizes of BERT)
            bert-base              Devlin et al., arXiv 1810.04805, section 3: L = 12, H = 768
            gpt2                   Radford et al., 2019, table 2, the smallest: 12 layers, 768; query, key and value
                                   are one matrix
            llama-2-7b             Touvron et al., arXiv 2302.13971, table 2: 32 layers, 4096; SwiGLU of width 11008
                                   as in the published config.json of Llama 2
            llama-2-70b            Touvron et al., arXiv 2307.09288, with the published config.json: 80 layers, 8192;
                                   key and value for 8 of 64 heads; SwiGLU of width 28672
            vit-b                  Dosovitskiy et al., arXiv 2010.11929, table 1: 12 layers, 768, MLP 3072
Heads are 64 wide in BERT's sizes, GPT-2 and ViT-B, and 128 wide in Llama 2's (the same sources).
Checked by  tests/test_count_job.py: against the models that transformers builds from these configurations.
"""

from __future__ import annotations

from dataclasses import dataclass

from .methods import MATRICES
from .shapes import InputError
from .targets import matches, nearest


@dataclass(frozen=True)
class Linear:
    """One linear layer of a block: what it is for (some of methods.MATRICES), its name, its (I, O)."""

    roles: tuple[str, ...]
    name: str
    shape: tuple[int, int]


@dataclass(frozen=True)
class Shape:
    """``layers`` equal blocks of linear layers, called PREFIX.0.NAME, PREFIX.1.NAME, ..., with the ``heads`` of their
    attention."""

    layers: int
    prefix: str
    block: tuple[Linear, ...]
    heads: int = 1


def _bert(layers: int, D: int, prefix: str) -> Shape:
    names = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
             "intermediate.dense", "output.dense")  # fmt: skip
    return _six(layers, D, 4 * D, prefix, names, heads=D // 64)


def _six(layers: int, D: int, F: int, prefix: str, names: tuple[str, ...], heads: int = 1) -> Shape:
    shapes = [(D, D)] * 4 + [(D, F), (F, D)]
    parts = zip(MATRICES, names, shapes, strict=True)
    return Shape(layers, prefix, tuple(Linear((role,), name, shape) for role, name, shape in parts), heads)


def _llama(layers: int, D: int, kv: int, F: int) -> Shape:
    """``kv``: the width of keys and values, smaller than D where heads share them."""
    block = {
        ("query",): ("self_attn.q_proj", (D, D)),
        ("key",): ("self_attn.k_proj", (D, kv)),
        ("value",): ("self_attn.v_proj", (D, kv)),
        ("output",): ("self_attn.o_proj", (D, D)),
    }
    attention = [Linear(role, name, shape) for role, (name, shape) in block.items()]
    feed_forward = [
        Linear(("ffn_in",), "mlp.gate_proj", (D, F)),
        Linear(("ffn_in",), "mlp.up_proj", (D, F)),
        Linear(("ffn_out",), "mlp.down_proj", (F, D)),
    ]
    return Shape(layers, "model.layers", (*attention, *feed_forward), heads=D // 128)


KNOWN = {
    "roberta-base": _bert(12, 768, "roberta.encoder.layer"),
    "roberta-large": _bert(24, 1024, "roberta.encoder.layer"),
    "bert-base": _bert(12, 768, "bert.encoder.layer"),
    "gpt2": Shape(
        12,
        "transformer.h",
        (
            Linear(("query", "key", "value"), "attn.c_attn", (768, 3 * 768)),
            Linear(("output",), "attn.c_proj", (768, 768)),
            Linear(("ffn_in",), "mlp.c_fc", (768, 3072)),
            Linear(("ffn_out",), "mlp.c_proj", (3072, 768)),
        ),
        heads=12,
    ),
    "llama-2-7b": _llama(32, 4096, 4096, 11008),
    "llama-2-70b": _llama(80, 8192, 1024, 28672),
    "vit-b": _six(12, 768, 3072, "vit.layers", (
        "attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj", "mlp.fc1", "mlp.fc2",
    ), heads=12),
}  # fmt: skip


def plain(layers: int, width: int) -> Shape:
    """A transformer of the usual kind: four square matrices a layer, and a feed-forward block of 4 x width."""
    return _six(layers, width, 4 * width, "layers", MATRICES)


def chosen(shape: Shape, targets: tuple[str, ...]) -> list[Linear]:
    """The linear layers of one block that the targets name, by role ("query") or by name ("q_proj").

    Raises InputError for a target that names nothing, with the nearest names.
    """
    known = [role for linear in shape.block for role in linear.roles] + [linear.name for linear in shape.block]
    for target in targets:
        if not any(_named(target, linear) for linear in shape.block):
            close = ", ".join(nearest(target, known))
            raise InputError(f"target {target!r} matches nothing; the nearest names are {close}")
    return [linear for linear in shape.block if any(_named(target, linear) for target in targets)]


def _named(target: str, linear: Linear) -> bool:
    return target in linear.roles if target in MATRICES else matches(target, linear.name)
