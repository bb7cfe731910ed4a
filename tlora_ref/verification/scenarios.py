"""Points that together expose what one random point hides.

One point is never enough: equal sizes hide a transpose or a wrong divisor, B = 0 hides all of dalpha, alpha = 1
every misplaced alpha, C order what is wrong for another layout. ``scenarios`` are the points every kernel is
checked at; ``draw_case`` draws one from a seed; ``encoder_scenarios`` are whole encoders with their loss.

Checked by  tests/test_check_job.py, and by the planted bugs that only one of them shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..config import AdapterConfig, EncoderConfig
from ..init import attach, init_encoder
from ..methods import Kernel
from ..model import Model
from ..shapes import tied

ALPHAS = (1.7, -0.6, 1.0, 0.0, -1.0)


# --- the arguments of a kernel, drawn ------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One set of arguments for a kernel, and the shape of its result."""

    op: Kernel
    args: dict[str, Any]
    out_shape: tuple[int, ...]
    seed: int

    def cotangent(self) -> np.ndarray:
        """A random one: a cotangent of ones hides bugs in softmax and LayerNorm."""
        return np.random.default_rng([self.seed, 1]).standard_normal(self.out_shape)

    @property
    def differentiable(self) -> dict[str, np.ndarray]:
        """The arguments that have a gradient, by the key of that gradient."""
        by_base = {arg.base: arg.name for arg in self.op.args}
        arrays = {key: self.args[by_base[key]] for key in self.op.wrt}
        return {key: value for key, value in arrays.items() if value is not None}

    def with_arg(self, key: str, value: Any) -> dict[str, Any]:
        """The arguments with the one of that gradient key exchanged."""
        name = next(arg.name for arg in self.op.args if arg.base == key)
        return {**self.args, name: value}


def sizes(rng: np.random.Generator, op: Kernel) -> dict[str, int]:
    """A size per letter: pairwise different, from 1 on, but for those that follow from others (shapes.tied)."""
    letters = sorted({letter for arg in op.args for letter in arg.letters if letter != "N"})
    drawn = dict(zip(letters, map(int, rng.permutation(np.arange(1, 1 + len(letters) + 3))), strict=False))
    if "H" in op.options.get("heads", ()):
        drawn["H"] = int(rng.integers(1, 4))
        drawn["D"] = drawn["H"] * int(rng.integers(1, 5))
    if {"X", "Y", "Z"} <= set(letters):
        drawn |= dict(zip("XYZ", map(int, rng.permutation(np.arange(1, 5))), strict=False))
    return drawn | tied(drawn)


def draw_case(
    op: Kernel, seed: int, lead: tuple[int, ...], size: Mapping[str, int], scale: float = 1.0, generic: bool = False
) -> Case:
    """Everything from one seed, so that a failing example is one number.

    ``generic``: every optional argument given, B of scale one, alpha = 1.7, C order; else all of it is drawn.
    """
    rng = np.random.default_rng(seed)

    def shape(letters: str) -> tuple[int, ...]:
        return sum(((lead if letter == "N" else (size[letter],)) for letter in letters), ())

    args: dict[str, Any] = {}
    for arg in op.args:
        want = shape(arg.letters)
        if arg.optional and not generic and rng.random() < 0.5:
            args[arg.name] = None
        elif arg.kind == "ids":
            args[arg.name] = rng.integers(0, size["V"], want)
        elif arg.kind == "mask":
            args[arg.name] = rng.random(want) < 0.7
        elif arg.kind == "keep":
            args[arg.name] = (rng.random(want) >= 0.25) / 0.75
        elif arg.kind == "positive":
            args[arg.name] = 0.5 + rng.random(want)
        elif arg.base == "alpha":
            args[arg.name] = np.array(ALPHAS[0] if generic else rng.choice(ALPHAS))
        elif arg.base == "scale":
            args[arg.name] = -1.7 if generic else float(rng.choice([1.0, 0.5, -1.7]))
        else:
            factor = scale if arg.base == "x" else 1.0
            if arg.base == "B" and not generic:
                factor = rng.choice([0.0, 1e-3, 1.0, 10.0])
            args[arg.name] = np.asarray(factor * rng.standard_normal(want))
        if isinstance(args[arg.name], np.ndarray) and not generic and rng.random() < 0.5:
            args[arg.name] = np.array(args[arg.name], order="F")  # asfortranarray makes a scalar a vector
    for option, values in op.options.items():
        args[option] = size["H"] if values == ("H",) else values[0 if generic else rng.integers(len(values))]
    return Case(op, args, shape(op.out), seed)


# --- the scenarios of a kernel -------------------------------------------------------------------

LEAD, DIFFERENT = (5,), dict(zip("TIORSDHFVK", (4, 4, 6, 3, 2, 6, 3, 6, 7, 2), strict=True))
"""Sizes of which no two in one kernel are equal, but for those that follow from others."""

FACTORS = {"X": 2, "Y": 3, "Z": 4}

SQUARE = dict.fromkeys(DIFFERENT, 4) | {"H": 2, "K": 2, "M": 4, "X": 1, "Y": 2, "Z": 2}

START = {"B": 0.0, "alpha": 1.0, "gamma": 1.0, "beta": 0.0}
"""The values an array starts from: TLoRA's initial point, and LayerNorm's."""


def scenarios(op: Kernel, seed: int = 0) -> Iterator[tuple[str, Case]]:
    """(name, case) for every scenario that means something for this kernel.

    different sizes (pairwise) and, from there, one thing at a time: square, rank 1, one row, one token, two
    leading axes, nothing optional, every value of every option, Fortran order, float32, and the initial point.
    """
    letters = {letter for arg in op.args for letter in arg.letters}

    def drawn(lead: tuple[int, ...] = LEAD, **size: int) -> Case:
        chosen_sizes = DIFFERENT | (FACTORS if "X" in letters else {}) | size
        return draw_case(op, seed, lead, chosen_sizes | tied(chosen_sizes), generic=True)

    yield "different sizes", drawn()
    if {"M", "I", "O"} <= letters:
        yield "the longer side exchanged", drawn(**({"O": 30} if "X" in letters else {"I": 6, "O": 4}))
    yield "square", draw_case(op, seed, (4,), SQUARE, generic=True)
    if "R" in letters:
        yield "rank 1", drawn(R=1, S=1)
    if "N" in letters:
        yield "one row", drawn((1,))
        yield "two leading axes", drawn((2, 3))
    if "T" in letters:
        yield "one token", drawn(T=1)
    optional = {arg.name: None for arg in op.args if arg.optional}
    if optional:
        yield "nothing optional", _with(drawn(), optional)
    for option, values in op.options.items():
        for value in values[1:]:
            yield f"{option}={value}", _with(drawn(), {option: value})
    yield "Fortran order", _map(drawn(), lambda a: a.copy(order="F"))
    yield "float32", _map(drawn(), lambda a: a.astype(np.float32) if a.dtype == np.float64 else a)
    start = {a.name: np.full_like(drawn().args[a.name], START[a.base]) for a in op.args if a.base in START}
    if start:
        yield "initial point", _with(drawn(), start)


def _with(case: Case, changes: Mapping[str, Any]) -> Case:
    return replace(case, args={**case.args, **changes})


def _map(case: Case, change: Callable[[np.ndarray], np.ndarray]) -> Case:
    return _with(case, {k: change(v) for k, v in case.args.items() if isinstance(v, np.ndarray)})


# --- the loss of a whole encoder -----------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Loss:
    """The mean cross-entropy of an encoder on one batch, a function of its trained arrays by name."""

    model: Model
    x: np.ndarray
    labels: np.ndarray
    mask: np.ndarray | None
    keep: Mapping[str, np.ndarray]
    types: np.ndarray | None = None

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        """The trained arrays."""
        return {name: self.model.params[name] for name in sorted(self.model.trained)}

    def in_one(self) -> tuple[Callable[..., Any], Callable[..., Any], dict[str, np.ndarray]]:
        """(fn, vjp, inputs) of the same loss as a function of one array, the trained ones end to end: a direction goes
        through all of them at once."""
        arrays = self.inputs
        ends = np.cumsum([array.size for array in arrays.values()])[:-1]

        def fn(every: np.ndarray) -> tuple[Any, Any]:
            parts = zip(arrays.items(), np.split(every, ends), strict=True)
            return self.fn(**{name: part.reshape(array.shape) for (name, array), part in parts})

        def vjp(dloss: Any, cache: Any) -> dict[str, np.ndarray]:
            grads = self.vjp(dloss, cache)
            return {"every": np.concatenate([grads[name].reshape(-1) for name in arrays])}

        return fn, vjp, {"every": np.concatenate([array.reshape(-1) for array in arrays.values()])}

    @property
    def flat(self) -> frozenset[str]:
        """Arrays with a gradient of zero everywhere: a shift of all keys changes no softmax."""
        return frozenset(name for name in self.model.trained if name.endswith(".key.b"))

    def fn(self, **arrays: np.ndarray) -> tuple[Any, Any]:
        """(loss, cache) by hand."""
        from ..by_hand.encoder import encoder_fwd
        from ..by_hand.ops import cross_entropy_fwd

        logits_NV, c_encoder = encoder_fwd(self.model.with_params(arrays), self.x, self.mask, self.keep, self.types)
        loss, c_loss = cross_entropy_fwd(logits_NV, self.labels)
        return loss, (c_loss, c_encoder)

    def vjp(self, dloss: Any, cache: Any) -> dict[str, np.ndarray]:
        """The gradient of every trained array, by hand."""
        from ..by_hand.encoder import encoder_bwd
        from ..by_hand.ops import cross_entropy_bwd

        c_loss, c_encoder = cache
        return encoder_bwd(cross_entropy_bwd(dloss, c_loss)["logits"], c_encoder)

    def twin(self, **tensors: Any) -> Any:
        """The loss in PyTorch."""
        import torch

        from ..by_autograd.encoder import encoder, to_torch
        from ..by_autograd.ops import cross_entropy

        model = to_torch(self.model).with_params(tensors)
        keep = {name: torch.from_numpy(a) for name, a in self.keep.items()}
        mask = None if self.mask is None else torch.from_numpy(self.mask)
        logits_NV = encoder(model, torch.from_numpy(self.x), mask, keep, self.types)
        return cross_entropy(logits_NV, torch.from_numpy(self.labels))


def encoder_loss(
    method: str | None, seed: int = 0, rows: int = 3, time: int = 4, start: bool = False, **config: Any
) -> Loss:
    """A small encoder with everything trained or, with ``method``, everything but what the adapter freezes.

    ``start``: as it is initialised; otherwise every array is moved, since B = 0 and alpha = 1 hide mistakes.
    """
    from ..by_hand.methods import METHODS
    from ..training import dropout_masks

    small = {"width": 6, "layers": 2, "heads": 2, "hidden": 5, "time": 4, "classes": 3}
    config = EncoderConfig(**{**small, **({} if "vocab" in config else {"features": 3}), **config})
    model, rng = init_encoder(config, seed, np.float64), np.random.default_rng(seed)
    if method:
        model = attach(model, AdapterConfig(method, rank=2, dropout=0.25 if METHODS[method].keep else 0.0, seed=seed))
    if not start:
        moved = {name: np.asarray(a + 0.3 * rng.standard_normal(a.shape)) for name, a in model.params.items()}
        model = model.with_params(moved)
    frozen = {f"{name}.{local}" for name in model.adapted for local in ("W", "b")} | _frozen_factors(model)
    model = model.training(set(model.params) - frozen)
    x = rng.integers(0, config.vocab, (rows, time)) if config.vocab else rng.standard_normal((rows, time, 3))
    mask = rng.random((rows, time)) < 0.7
    mask[:, 0] = True
    keep = dropout_masks(model, rng, (rows, time))
    types = rng.integers(0, config.types, (rows, time)) if config.types else None
    return Loss(model, x, np.arange(rows) % config.classes, mask, keep, types)


def _frozen_factors(model: Model) -> set[str]:
    """The full names of the adapter's arrays that its method freezes."""
    if model.adapter is None:
        return set()
    return {model.method.full_name(name, base) for name in model.adapted for base in model.method.frozen}


def encoder_scenarios(method: str | None, seed: int = 0) -> Iterator[tuple[str, Loss]]:
    """(name, loss): continuous tokens and ids, both poolings, causal or not, one row, one token, the start; token
    types and a pooler as in BERT, positions counted as in RoBERTa. Two layers, with either pooling and either kind of
    tokens; one where another thing is asked."""
    yield "continuous tokens", encoder_loss(method, seed)
    yield "ids, causal", encoder_loss(method, seed, vocab=7, causal=True, layers=1)
    yield "first token", encoder_loss(method, seed, pool="first", layers=1)
    yield "one row", encoder_loss(method, seed, rows=1, layers=1)
    yield "one token", encoder_loss(method, seed, time=1, layers=1)
    yield "initial point", encoder_loss(method, seed, start=True, layers=1)
    # one seed on: at 0 a row before a LayerNorm is all but constant, and curved beyond what plain central differences
    # can follow (they are off by 5e-6 there; the complex step and Richardson's agree with the gradient)
    yield "as BERT", encoder_loss(method, seed + 1, vocab=7, pool="first", pooler=True, types=2)
    yield "as RoBERTa", encoder_loss(method, seed, vocab=7, pool="first", pooler=True, types=1, pad_id=1, layers=1)
