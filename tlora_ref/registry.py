"""One row per operation and one per adapter method. A new row is what makes the tests cover a new kernel.

The letters in an argument's name give its shape (shapes.py); the first part of the name gives its kind:

    keep_*            a dropout mask already divided by (1 - p)       mask_*            booleans, True = real
    ids_*, labels_*   integers below V                                everything else   real numbers

An argument that ends in ``?`` may be None. ``heads`` is an option tied to the letters: D = H * K.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from .shapes import split_name


@dataclass(frozen=True)
class Arg:
    """One array argument of a kernel."""

    name: str  # "x_NI"
    optional: bool

    @property
    def base(self) -> str:
        """The name without its letters, the key of its gradient: "x"."""
        return split_name(self.name)[0]

    @property
    def letters(self) -> str:
        """The letters of its shape: "NI"."""
        return split_name(self.name)[1]

    @property
    def kind(self) -> str:
        """ "keep", "mask", "ids" or "real"."""
        kinds = {"keep": "keep", "mask": "mask", "ids": "ids", "labels": "ids"}
        return kinds.get(self.base, "real")


def _args(text: str) -> tuple[Arg, ...]:
    return tuple(Arg(word.rstrip("?"), word.endswith("?")) for word in text.split())


@dataclass(frozen=True)
class Op:
    """A kernel pair: ``NAME_fwd`` and ``NAME_bwd`` in by_hand/FILE.py, the twin ``NAME`` in by_autograd/FILE.py."""

    name: str
    file: str
    arguments: str  # "x_NI W0_IO b_O?"
    grads: str  # the arguments with a gradient, by the first part of their names
    out: str  # letters of the result
    options: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)  # values for tests to draw from
    exact: bool = False  # only + and *: also runs on fractions.Fraction

    @property
    def args(self) -> tuple[Arg, ...]:
        """The array arguments in order."""
        return _args(self.arguments)

    @property
    def wrt(self) -> tuple[str, ...]:
        """The keys of the gradient dictionary."""
        return tuple(self.grads.split())

    @property
    def fwd(self) -> Callable[..., Any]:
        """The forward by hand."""
        return getattr(import_module(f"tlora_ref.by_hand.{self.file}"), f"{self.name}_fwd")

    @property
    def bwd(self) -> Callable[..., Any]:
        """The backward by hand."""
        return getattr(import_module(f"tlora_ref.by_hand.{self.file}"), f"{self.name}_bwd")


@dataclass(frozen=True)
class Method:
    """An adapter method: which kernel it runs, which arrays it trains and which it freezes.

    ``trained`` and ``frozen`` are arguments of the kernel; a model keeps each under MATRIX.BASE, as in
    ``layers.0.query.B``. ``keep`` is the argument that dropout enters by.
    """

    name: str
    op: str
    trained: str
    frozen: str
    keep: str
    constants: tuple[str, ...] = ()  # taken from AdapterConfig by name
    paper: str = ""

    @property
    def trained_args(self) -> tuple[Arg, ...]:
        """The arrays with a gradient."""
        return _args(self.trained)

    @property
    def arrays(self) -> tuple[Arg, ...]:
        """All arrays of the adapter, trained first."""
        return _args(f"{self.trained} {self.frozen}")

    @property
    def delta_w(self) -> Callable[..., Any]:
        """W' - W0 from the arrays, by hand."""
        return getattr(import_module("tlora_ref.by_hand.adapters"), f"{self.name}_delta_w")


OPS = {
    op.name: op
    for op in (
        Op(
            "tlora_linear",
            "adapters",
            "x_NI W0_IO b_O? A_IR B_RS C_SO alpha keep_NO?",
            "x B alpha",
            "NO",
            exact=True,
        ),
        Op("lora_linear", "adapters", "x_NI W0_IO b_O? A_IR B_RO scale keep_NI?", "x A B", "NO", exact=True),
        Op("linear", "ops", "x_NI W_IO b_O?", "x W b", "NO", exact=True),
        Op("frozen_linear", "ops", "x_NI W0_IO b_O?", "x", "NO", exact=True),
        Op("layer_norm", "ops", "x_ND gamma_D beta_D", "x gamma beta", "ND"),
        Op("gelu", "ops", "x_NF", "x", "NF"),
        Op("softmax", "ops", "x_NV mask_NV?", "x", "NV"),
        Op(
            "attention",
            "ops",
            "q_NTD k_NTD v_NTD mask_NT?",
            "q k v",
            "NTD",
            options={"heads": ("H",), "causal": (False, True)},
        ),
        Op("embedding", "ops", "ids_N W_VD", "W", "ND"),
        Op("mean_pool", "ops", "x_NTD mask_NT?", "x", "ND"),
        Op("first_token", "ops", "x_NTD", "x", "ND"),
        Op("cross_entropy", "ops", "logits_NV labels_N", "logits", ""),
    )
}

METHODS = {
    method.name: method
    for method in (
        Method("tlora", "tlora_linear", "B_RS alpha", "A_IR C_SO", "keep_NO", paper="arXiv 2504.18735"),
        Method("lora", "lora_linear", "A_IR B_RO", "", "keep_NI", ("scale",), paper="arXiv 2106.09685"),
    )
}
