"""One row per operation and one per adapter method. A new row is what makes the tests cover a new kernel.

The letters in an argument's name give its shape (shapes.py); the first part of the name gives its kind:

    keep_*            a dropout mask already divided by (1 - p)       mask_*            booleans, True = real
    ids_*, labels_*   integers below V                                norm_*, magnitude_*   positive numbers
    everything else   real numbers

An argument that ends in ``?`` may be None. ``heads`` is an option tied to the letters: D = H * K.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any

from .shapes import split_name

MATRICES = ("query", "key", "value", "output", "ffn_in", "ffn_out")
"""The six matrices of an encoder layer, in the order the forward meets them."""

BLOCKS = ("attn_block", "ffn_block", "norm_block")
"""Where a bottleneck adapter may sit: after the attention's output projection, after the feed-forward block's, and
behind the layer's last LayerNorm, reading what it gives and adding to what it is given."""


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
        """ "keep", "mask", "ids", "positive" or "real"."""
        kinds = {"keep": "keep", "mask": "mask", "ids": "ids", "labels": "ids"}
        kinds |= {"norm": "positive", "magnitude": "positive"}
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
    kernel: str = ""  # the pair's own name where it is not the row's: a row may be a configuration of a kernel
    fixed: Mapping[str, Any] = field(default_factory=dict)  # the keyword arguments that make it one

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
        return self._configured(getattr(import_module(f"tlora_ref.by_hand.{self.file}"), f"{self._kernel}_fwd"))

    @property
    def bwd(self) -> Callable[..., Any]:
        """The backward by hand."""
        return getattr(import_module(f"tlora_ref.by_hand.{self.file}"), f"{self._kernel}_bwd")

    @property
    def twin(self) -> Callable[..., Any]:
        """The forward in PyTorch, same arguments as tensors; its gradients are autograd's."""
        return self._configured(getattr(import_module(f"tlora_ref.by_autograd.{self.file}"), self._kernel))

    @property
    def _kernel(self) -> str:
        return self.kernel or self.name

    def _configured(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return partial(function, **self.fixed) if self.fixed else function


@dataclass(frozen=True)
class Method:
    """An adapter method: which kernel it runs, which arrays it trains and which it freezes.

    ``trained`` and ``frozen`` are arguments of the kernel; a model keeps each under MATRIX.BASE, as in
    ``layers.0.query.B``; those in ``shared`` once for all matrices, under ``shared.BASE``. ``keep`` is the
    argument that dropout enters by, "" for a method without dropout.
    """

    name: str
    op: str
    trained: str
    frozen: str
    keep: str
    constants: tuple[str, ...] = ()  # taken from AdapterConfig by name
    paper: str = ""
    kernel: str = ""  # the first part of the names of its other functions, KERNEL_delta_w; default: the method's
    fixed: Mapping[str, Any] = field(default_factory=dict)  # keyword arguments of KERNEL_delta_w and KERNEL_update
    shared: str = ""
    norm: bool = False  # the kernel takes the column norms, KERNEL_norm, as a constant
    from_seed: bool = True  # the frozen arrays follow from the seed alone, not from W0
    additive: bool = True  # dW has rank R at most, and A is its left factor: exportable as a LoRA
    mergeable: bool = True  # evaluation is a plain linear layer with W0 + dW
    places: tuple[str, ...] = MATRICES  # what it can be put on
    targets: tuple[str, ...] = ("query", "value")  # where it is put unless told otherwise

    @property
    def trained_args(self) -> tuple[Arg, ...]:
        """The arrays with a gradient."""
        return _args(self.trained)

    @property
    def arrays(self) -> tuple[Arg, ...]:
        """All arrays of the adapter, trained first."""
        return _args(f"{self.trained} {self.frozen}")

    @property
    def shared_names(self) -> frozenset[str]:
        """The local names of what all matrices share."""
        return frozenset(arg.base for arg in _args(self.shared))

    @property
    def delta_w(self) -> Callable[..., Any]:
        """W' - W0 from the arrays, by hand."""
        return partial(self._function("by_hand", "delta_w"), **self.fixed)

    @property
    def delta_w_twin(self) -> Callable[..., Any]:
        """W' - W0 from tensors."""
        return partial(self._function("by_autograd", "delta_w"), **self.fixed)

    @property
    def update_twin(self) -> Callable[..., Any]:
        """From tensors: what is added to x W0 + b, given x as it is after the method's dropout on it. Where the
        columns are rescaled, what is added to x W0 before that."""
        return partial(self._function("by_autograd", "update"), **self.fixed)

    @property
    def rescales(self) -> bool:
        """Does it bring the columns of W0 + (...) to trained lengths?"""
        return any(arg.base == "magnitude" for arg in self.trained_args)

    @property
    def on_matrices(self) -> bool:
        """Does it sit on linear layers? Otherwise it sits in a block of the encoder."""
        return self.places == MATRICES

    @property
    def column_norm(self) -> Callable[..., Any]:
        """The norms by which the columns are rescaled, by hand."""
        return self._function("by_hand", "norm")

    @property
    def column_norm_twin(self) -> Callable[..., Any]:
        """The same from tensors; autograd follows them."""
        return self._function("by_autograd", "norm")

    def _function(self, room: str, what: str) -> Callable[..., Any]:
        return getattr(import_module(f"tlora_ref.{room}.{OPS[self.op].file}"), f"{self.kernel or self.name}_{what}")


LAYER = "x_NI W0_IO b_O?"

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
        Op("tanh", "ops", "x_NF", "x", "NF"),
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
        Op("lora_fa_linear", "family", f"{LAYER} A_IR B_RO scale keep_NI?", "x B", "NO", exact=True),
        Op("tri_linear", "family", f"{LAYER} A_IR M_RS C_SO scale keep_NI?", "x A M C", "NO", exact=True),
        Op(
            "lora_xs_linear",
            "family",
            f"{LAYER} A_IR M_RS C_SO scale keep_NI?",
            "x M",
            "NO",
            exact=True,
            kernel="tri_linear",
            fixed={"trains": ("M",)},
        ),
        *(
            Op(
                f"mtlora_{form}_linear",
                "family",
                f"{LAYER} A_IR B_RO C_RR {'D_RR ' * two}scale keep_NI?",
                "x A B C" + " D" * two,
                "NO",
                exact=True,
                kernel="mtlora_linear",
                fixed={"form": form},
            )
            for form, two in (("shim", 0), ("icfm", 0), ("ctcm", 1), ("dtsm", 1))
        ),
        Op(
            "vera_linear",
            "family",
            f"{LAYER} A_IR B_RO lambda_d_R lambda_b_O keep_NI?",
            "x lambda_d lambda_b",
            "NO",
            exact=True,
        ),
        Op("column_norm", "family", "V_IO", "V", "O"),
        Op("rescale", "family", "y0_NO magnitude_O norm_O", "y0 magnitude norm", "NO"),
        Op("dora_linear", "family", f"{LAYER} A_IR B_RO magnitude_O scale norm_O keep_NI?", "x A B magnitude", "NO"),
        Op(
            "dora_full_linear",
            "family",
            f"{LAYER} A_IR B_RO magnitude_O scale keep_NI?",
            "x A B magnitude",
            "NO",
            kernel="dora_linear",
        ),
        Op(
            "edora_linear", "family", f"{LAYER} A_IR M_RS C_SO magnitude_O scale norm_O keep_NI?", "x M magnitude", "NO"
        ),
        Op("relu", "bottleneck", "x_NF", "x", "NF"),
        *(
            Op(
                f"bottleneck_{act}",
                "bottleneck",
                "z_ND down_DR down_b_R up_RD up_b_D",
                "z down down_b up up_b",
                "ND",
                kernel="bottleneck",
                fixed={"act": act},
            )
            for act in ("gelu", "relu")
        ),
    )
}

METHODS = {
    method.name: method
    for method in (
        Method("tlora", "tlora_linear", "B_RS alpha", "A_IR C_SO", "keep_NO", paper="arXiv 2504.18735"),
        Method("lora", "lora_linear", "A_IR B_RO", "", "keep_NI", ("scale",), paper="arXiv 2106.09685"),
        Method("lora_fa", "lora_fa_linear", "B_RO", "A_IR", "keep_NI", ("scale",), "arXiv 2308.03303", kernel="lora"),
        Method(
            "vera",
            "vera_linear",
            "lambda_d_R lambda_b_O",
            "A_IR B_RO",
            "keep_NI",
            (),
            "arXiv 2310.11454",
            shared="A_IR B_RO",
        ),
        Method(
            "lora_xs",
            "lora_xs_linear",
            "M_RS",
            "A_IR C_SO",
            "keep_NI",
            ("scale",),
            "arXiv 2405.17604",
            kernel="tri",
            from_seed=False,
        ),
        Method(
            "dora",
            "dora_linear",
            "A_IR B_RO magnitude_O",
            "",
            "keep_NI",
            ("scale",),
            "arXiv 2402.09353",
            norm=True,
            additive=False,
        ),
        Method(
            "dora_full",
            "dora_full_linear",
            "A_IR B_RO magnitude_O",
            "",
            "keep_NI",
            ("scale",),
            "arXiv 2402.09353",
            kernel="dora",
            additive=False,
        ),
        Method(
            "edora",
            "edora_linear",
            "M_RS magnitude_O",
            "A_IR C_SO",
            "keep_NI",
            ("scale",),
            "arXiv 2501.12067",
            norm=True,
            from_seed=False,
            additive=False,
        ),
        *(
            Method(
                f"mtlora_{form}",
                f"mtlora_{form}_linear",
                "A_IR B_RO C_RR" + " D_RR" * two,
                "",
                "keep_NI",
                ("scale",),
                "arXiv 2403.07440",
                kernel="mtlora",
                fixed={"form": form},
            )
            for form, two in (("shim", 0), ("icfm", 0), ("ctcm", 1), ("dtsm", 1))
        ),
        *(
            Method(
                name,
                f"bottleneck_{act}",
                "down_DR down_b_R up_RD up_b_D",
                "",
                "",
                (),
                paper,
                additive=False,
                mergeable=False,
                places=BLOCKS,
                targets=blocks,
            )
            for name, act, paper, blocks in (
                ("adapter_h", "gelu", "arXiv 1902.00751", ("attn_block", "ffn_block")),
                ("adapter_p", "relu", "arXiv 2005.00247", ("norm_block",)),
            )
        ),
    )
}
