"""What a kernel and an adapter method are, as data. The tables themselves stand in the rooms:

    by_hand/kernels.py               KERNELS, every kernel pair by name
    by_hand/methods/__init__.py      METHODS, every adapter method by name
    by_autograd/kernels.py           KERNEL_TWINS, the PyTorch twin of every kernel
    by_autograd/methods/__init__.py  TWINS, the PyTorch twin of every method

The letters in an argument's name give its shape (shapes.py); the first part of the name gives its kind:

    keep_*            a dropout mask already divided by (1 - p)       mask_*                booleans, True = real
    ids_*, labels_*   integers below V                                norm_*, magnitude_*   positive numbers
    everything else   real numbers

Nothing about a kernel's arguments is written down twice: names, letters and what may be None are read from the
signature of its forward.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .shapes import InputError, is_shaped, split_name, tied

if TYPE_CHECKING:
    from .config import AdapterConfig

Arrays = dict[str, Any]

MATRICES = ("query", "key", "value", "output", "ffn_in", "ffn_out")
"""The six matrices of an encoder layer, in the order the forward meets them."""

BLOCKS = ("attn_block", "ffn_block", "norm_block")
"""Where a bottleneck adapter may sit: after the attention's output projection, after the feed-forward block's, and
behind the layer's last LayerNorm, reading what it gives and adding to what it is given."""

SHARED = "shared"
"""Where a model keeps the arrays that all adapted matrices share, as in ``shared.A``."""


class Site(NamedTuple):
    """Where an adapter sits: the matrix's full name ("layers.0.query"), its width in and out, the rank there, and what
    only few methods ask for, the heads of its layer's attention and the width of a block of the rank. A block of the
    encoder has I = O = D. ``home`` is the matrix that keeps its arrays, "": itself."""

    name: str
    I: int
    O: int
    R: int
    heads: int = 1
    block: int = 1
    home: str = ""

    @property
    def own(self) -> bool:
        """Are the arrays its own, and not those of another matrix that it is tied to?"""
        return self.home in ("", self.name)

    @property
    def sizes(self) -> dict[str, int]:
        """The size of every letter that an adapter's arrays may have here."""
        own = {"I": self.I, "O": self.O, "R": self.R, "S": self.R, "D": self.O}
        return own | tied(own)


def factor_pairs(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Of the full names of trained arrays: the modules that have both an A and a B, and the names of all others."""
    every = list(names)
    modules = [name.removesuffix(".A") for name in every if name.endswith(".A") and f"{name[:-1]}B" in every]
    paired = {f"{module}.{base}" for module in modules for base in "AB"}
    return modules, [name for name in every if name not in paired]


@dataclass(frozen=True)
class Arg:
    """One array argument of a kernel."""

    name: str  # "x_NI"
    optional: bool  # may it be None?

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


@dataclass(frozen=True, eq=False)
class Kernel:
    """A forward and its backward by hand.

    ``fwd`` may be a ``functools.partial`` that fixes keyword arguments: a configuration of a kernel is a kernel.
    Raises InputError for a forward without the shape check of shapes.shaped.
    """

    name: str
    fwd: Callable[..., tuple[Any, Any]]
    bwd: Callable[..., Arrays]
    wrt: tuple[str, ...]  # the keys of the gradient dictionary, each the first part of an argument's name
    out: str  # the letters of the result
    options: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)  # values for tests to draw from
    exact: bool = False  # only + and * occur: the kernel also runs on arrays of fractions.Fraction
    required: tuple[str, ...] = ()  # arguments that may be None in general, but not in this configuration

    def __post_init__(self) -> None:
        if not is_shaped(self.fwd):
            raise InputError(f"the forward of {self.name} does not check its shapes: decorate it with shapes.shaped")
        if not hasattr(self.fwd, "keywords"):
            # a gradient checker, which knows no table, reads here what the backward is supposed to give
            self.bwd.__dict__["gradients"] = self.wrt

    @cached_property
    def args(self) -> tuple[Arg, ...]:
        """The array arguments in order, read from the signature of the forward: what is annotated as an array, and
        the constant ``scale``."""
        fixed = getattr(self.fwd, "keywords", {})
        return tuple(
            Arg(name, optional="None" in str(p.annotation) and name not in self.required)
            for name, p in inspect.signature(self.fwd).parameters.items()
            if name not in fixed and ("Array" in str(p.annotation) or name == "scale")
        )

    def arg(self, base: str) -> Arg:
        """The argument of that first part of a name: ``"B" -> B_RS``. Raises InputError if there is none."""
        for arg in self.args:
            if arg.base == base:
                return arg
        raise InputError(f"{self.name} has no argument {base!r}; it has {', '.join(a.base for a in self.args)}")


@dataclass(frozen=True, eq=False)
class Method:
    """An adapter method: its kernel, its arrays, how they start.

    A model keeps each array under MATRIX.BASE, as in ``layers.0.query.B``; those in ``shared`` once for all matrices,
    under ``shared.BASE``. The functions:

    draw         (site, W0, config) -> the arrays of one matrix at the start, by base, in float64
    draw_shared  (sites, config) -> the arrays that all matrices share
    delta_w      (W0, **arguments) -> dW = W' - W0 (I, O); None where no weight W0 + dW does what the adapter does
    constants_of (W0, **arguments) -> further arguments of the kernel, computed from the others and held constant by its
                 backward, such as DoRA's column norms
    view         (arrays by base, site) -> the kernel's arguments by name. None: every array under its own name, and of
                 a shared one the corner that this matrix needs
    scatter      (gradients of the kernel by base, arrays by base, site) -> gradients of the arrays by base, the
                 transpose of ``view``; goes with it
    importance   (arrays by base, site) -> what a matrix's rank grows by (growth.py); goes with ``core``
    """

    name: str
    label: str  # as a table or a figure spells it
    paper: str
    kernel: Kernel
    trained: tuple[str, ...]  # bases of the arrays that train
    draw: Callable[[Site, Any, AdapterConfig], Arrays]
    delta_w: Callable[..., Any] | None
    frozen: tuple[str, ...] = ()  # bases of the arrays that are drawn once and never trained
    shared: tuple[str, ...] = ()  # those of the above that all matrices share
    draw_shared: Callable[[Sequence[Site], AdapterConfig], Arrays] | None = None
    constants_of: Callable[..., Arrays] | None = None
    view: Callable[[Arrays, Site], Arrays] | None = None
    scatter: Callable[[Arrays, Arrays, Site], Arrays] | None = None
    importance: Callable[[Arrays, Site], float] | None = None
    core: tuple[str, ...] = ()  # bases of what stands between A and B, where the rank can grow: see growth.py
    letters: Mapping[str, str] = field(default_factory=dict)  # of arrays that are no argument of the kernel
    sizes_of: Callable[[Site], dict[str, int]] | None = None  # of letters beyond those that every Site has a size for
    orthogonal: tuple[str, ...] = ()  # bases of trained arrays that start orthogonal and are to stay so
    product: bool = False  # are A and B trained, and is all that they do a function of their product A B?
    optimizer: str = "adamw"  # what its paper trains it with
    from_seed: bool = True  # do the frozen arrays follow from the seed alone, and not from W0?
    additive: bool = True  # does dW have rank R at most, with A as its left factor? Then it can be exported as a LoRA
    rescales: bool = False  # are the columns of W0 + (...) brought to trained lengths?
    places: tuple[str, ...] = MATRICES  # what it can be put on
    targets: tuple[str, ...] = ("query", "value")  # where it is put unless told otherwise
    rank: int = 8  # its natural rank in comparisons

    @property
    def mergeable(self) -> bool:
        """Is the adapted layer, in evaluation, a plain linear one with W0 + dW?"""
        return self.delta_w is not None

    @property
    def on_matrices(self) -> bool:
        """Does it sit on linear layers? Otherwise it sits in a block of the encoder."""
        return self.places == MATRICES

    @property
    def keep(self) -> str:
        """The argument that dropout enters by, "" for a method without dropout."""
        return next((arg.name for arg in self.kernel.args if arg.kind == "keep"), "")

    @property
    def constants(self) -> tuple[str, ...]:
        """The arguments that are numbers of the AdapterConfig, by the same name."""
        return tuple(arg.name for arg in self.kernel.args if arg.name == "scale")

    @property
    def per_head(self) -> bool:
        """Does it need to know how many heads the attention has?"""
        return any("H" in arg.letters for arg in self.arrays)

    def sizes(self, site: Site) -> dict[str, int]:
        """The size of every letter that its arrays may have on a matrix."""
        return site.sizes | (self.sizes_of(site) if self.sizes_of is not None else {})

    def array(self, base: str) -> Arg:
        """One of the method's arrays with its letters."""
        return Arg(f"{base}_{self.letters[base]}", False) if base in self.letters else self.kernel.arg(base)

    @cached_property
    def trained_args(self) -> tuple[Arg, ...]:
        """The arrays with a gradient."""
        return tuple(self.array(base) for base in self.trained)

    @cached_property
    def arrays(self) -> tuple[Arg, ...]:
        """All arrays of the adapter, trained first."""
        return tuple(self.array(base) for base in (*self.trained, *self.frozen))

    @property
    def shared_names(self) -> frozenset[str]:
        """The bases of what all matrices share."""
        return frozenset(self.shared)

    def full_name(self, matrix: str, base: str) -> str:
        """Where a model keeps an array: ``layers.0.query.B``, or ``shared.A``."""
        return f"{SHARED if base in self.shared else matrix}.{base}"

    def shapes(self, sites: Sequence[Site]) -> dict[str, tuple[int, ...]]:
        """The shape of every array by its full name; a shared one is as large as the largest matrix needs."""
        shape_of = {}
        for site in sites:
            for arg in self.arrays:
                if arg.base not in self.shared and site.own:
                    shape_of[f"{site.name}.{arg.base}"] = tuple(self.sizes(site)[letter] for letter in arg.letters)
        if self.shared and sites:
            shape_of |= self.shared_shapes(sites)
        return shape_of

    def shared_shapes(self, sites: Sequence[Site]) -> dict[str, tuple[int, ...]]:
        """The shapes of what all matrices share, by full name."""
        every = [self.sizes(site) for site in sites]
        largest = {letter: max(sizes[letter] for sizes in every) for letter in every[0]}
        args = [arg for arg in self.arrays if arg.base in self.shared]
        return {f"{SHARED}.{arg.base}": tuple(largest[letter] for letter in arg.letters) for arg in args}

    def size(self, sites: Sequence[Site], which: Sequence[str]) -> int:
        """How many numbers the arrays of those bases hold on these matrices, a shared array counted once."""
        return sum(prod(shape) for name, shape in self.shapes(sites).items() if name.rpartition(".")[2] in which)

    # --- between the arrays that a model keeps and the arguments that the kernel takes -----------------

    def arguments(self, arrays: Arrays, site: Site) -> Arrays:
        """The kernel's arguments by name from the arrays by base; constants of the configuration are not among them."""
        if self.view is not None:
            return self.view(arrays, site)
        return {
            arg.name: arrays[arg.base][self._corner(arg, site)] if arg.base in self.shared else arrays[arg.base]
            for arg in self.arrays
        }

    def gradients(self, grads: Arrays, arrays: Arrays, site: Site) -> Arrays:
        """The gradients of the arrays by base, from those of the kernel by base."""
        if self.scatter is not None:
            return self.scatter(grads, arrays, site)
        grads_of_kernel = {}
        for base, gradient in grads.items():
            if base in self.shared and gradient.shape != arrays[base].shape:
                whole = np.zeros(arrays[base].shape, dtype=gradient.dtype)
                whole[self._corner(self.array(base), site)] = gradient
                gradient = whole
            grads_of_kernel[base] = gradient
        return grads_of_kernel

    def _corner(self, arg: Arg, site: Site) -> tuple[slice, ...]:
        return tuple(slice(self.sizes(site)[letter]) for letter in arg.letters)
