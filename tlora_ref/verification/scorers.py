"""Which seeded bugs does a gradient checker find? The checkers in common use, and this project's, as functions.

A checker is ``checker(fn, vjp, inputs, wrt, seed) -> bool``, True where it accepts the gradients:

    fn(**inputs) -> (out, cache),   vjp(dout, cache) -> {name: gradient},   wrt: the inputs that have one

An exception counts as a rejection. Each rule is written after its source, tolerances and steps included:

    torch slow, fast   torch.autograd.gradcheck around a generated torch.autograd.Function
    CS231n             elementwise |a - n| / max(1e-8, |a| + |n|), central differences, h = 1e-5 (Stanford's
                       course notes, "Gradient checks"), with the bound 1e-5 or 1e-7
    JAX                jax.test_util.check_grads, order 1, reverse mode: one direction, h = 1e-4, 1e-5
    HIPS autograd      autograd.test_util.check_grads, order 1, reverse mode: one direction, h = 1e-6, 1e-6
    minitorch          minitorch.grad_check: one entry per array, cotangent of ones, 1e-2
    loss falls         fifty steps of AdamW on half the squared distance to a target; accepted if it has fallen
    tlora_ref          gradcheck.check at one point
Checked by  tests/test_mutants.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from ..by_hand.kernels import KERNELS
from ..gradcheck import check
from ..shapes import InputError, split_name
from .mutants import ALL, BUGS, CONTROLS, Mutant
from .mutants.mutant import Pair
from .scenarios import Case, Loss, draw_case, encoder_loss, encoder_scenarios, scenarios, sizes

Array = np.ndarray
Checker = Callable[[Callable[..., Any], Callable[..., Any], Mapping[str, Any], Sequence[str], int], bool]


# --- the checkers --------------------------------------------------------------------------------


def tlora_ref(fn: Any, vjp: Any, inputs: Mapping[str, Any], wrt: Sequence[str], seed: int) -> bool:
    """This project's own check, at one point."""
    return check(fn, vjp, inputs, wrt=wrt, seed=seed, points=("given",)).ok


def torch_gradcheck(fast: bool) -> Checker:
    """torch's own, at its defaults, on a Function whose forward and backward are the two by hand."""

    def checker(fn: Any, vjp: Any, inputs: Mapping[str, Any], wrt: Sequence[str], seed: int) -> bool:
        import torch

        class Hand(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *tensors: Any) -> Any:
                arrays = {name: t.detach().numpy() for name, t in zip(wrt, tensors, strict=True)}
                out, ctx.by_hand = fn(**{**inputs, **arrays})
                return torch.as_tensor(np.array(out, order="C"))  # torch takes no arrays that are read backwards

            @staticmethod
            def backward(ctx: Any, dout: Any) -> Any:
                grads = vjp(dout.detach().numpy(), ctx.by_hand)
                return tuple(torch.as_tensor(np.array(grads[split_name(name)[0]], order="C")) for name in wrt)

        tensors = [torch.from_numpy(inputs[name].copy(order="K")).requires_grad_() for name in wrt]
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return torch.autograd.gradcheck(Hand.apply, tensors, fast_mode=fast, raise_exception=False)

    return checker


def cs231n(bound: float) -> Checker:
    """The relative error of every entry is below ``bound``."""

    def checker(fn: Any, vjp: Any, inputs: Mapping[str, Any], wrt: Sequence[str], seed: int) -> bool:
        dout = np.random.default_rng(seed).standard_normal(np.shape(fn(**inputs)[0]))
        grads = _gradients(fn, vjp, inputs, wrt, dout)
        for name in wrt:
            numeric = np.empty(inputs[name].shape)
            for index in np.ndindex(numeric.shape):
                step = np.zeros(numeric.shape)
                step[index] = 1e-5
                numeric[index] = (dout * _central(fn, inputs, {name: step})).sum() / 2e-5
            error = np.abs(grads[name] - numeric) / np.maximum(1e-8, np.abs(grads[name]) + np.abs(numeric))
            if not error.max(initial=0.0) < bound:
                return False
        return True

    return checker


def jax_style(fn: Any, vjp: Any, inputs: Mapping[str, Any], wrt: Sequence[str], seed: int) -> bool:
    """<v, vjp(g)> against <(f(x + h v) - f(x - h v)) / 2h, g>, one random v over all arrays, h = 1e-4."""
    rng = np.random.default_rng(seed)
    v = {name: rng.standard_normal(inputs[name].shape) for name in wrt}
    numeric = _central(fn, inputs, {name: 1e-4 * a for name, a in v.items()}) / 2e-4
    dout = rng.standard_normal(numeric.shape)
    hand = _along(_gradients(fn, vjp, inputs, wrt, dout), v)
    return bool(np.isclose(hand, (dout * numeric).sum(), rtol=1e-5, atol=1e-5))


def hips_style(fn: Any, vjp: Any, inputs: Mapping[str, Any], wrt: Sequence[str], seed: int) -> bool:
    """The same with a step of 1e-6 and 1e-6 for either the absolute or the relative error."""
    rng = np.random.default_rng(seed)
    v = {name: rng.standard_normal(inputs[name].shape) for name in wrt}
    dout = rng.standard_normal(np.shape(fn(**inputs)[0]))
    hand = _along(_gradients(fn, vjp, inputs, wrt, dout), v)
    numeric = (dout * _central(fn, inputs, {name: 5e-7 * a for name, a in v.items()})).sum() / 1e-6
    return bool(abs(hand - numeric) < 1e-6 or abs(hand - numeric) / abs(hand + numeric) < 1e-6)


def minitorch_style(fn: Any, vjp: Any, inputs: Mapping[str, Any], wrt: Sequence[str], seed: int) -> bool:
    """One random entry of each array, the outputs summed, to 1e-2."""
    rng = np.random.default_rng(seed)
    grads = _gradients(fn, vjp, inputs, wrt, np.ones(np.shape(fn(**inputs)[0])))
    for name in wrt:
        step = np.zeros(inputs[name].shape)
        index = tuple(rng.integers(0, step.shape)) if step.ndim else ()
        step[index] = 1e-6
        numeric = _central(fn, inputs, {name: step}).sum() / 2e-6
        if not np.isclose(grads[name][index], numeric, rtol=1e-2, atol=1e-2):
            return False
    return True


def loss_falls(fn: Any, vjp: Any, inputs: Mapping[str, Any], wrt: Sequence[str], seed: int) -> bool:
    """loss = |out - target|^2 / 2, fifty steps of AdamW with learning rate 1e-2."""
    from ..by_hand.optimizers import adamw_init, adamw_step
    from ..config import TrainConfig

    params = {name: inputs[name] for name in wrt}
    target = np.random.default_rng(seed).standard_normal(np.shape(fn(**inputs)[0]))
    config, losses = TrainConfig(weight_decay=0.0), []
    state = adamw_init(params, config)
    for _ in range(50):
        out, cache = fn(**{**inputs, **params})
        losses.append(((out - target) ** 2).sum() / 2)
        grads = vjp(np.asarray(out - target), cache)
        params = adamw_step(params, {name: grads[split_name(name)[0]] for name in wrt}, state, 1e-2, config)
    out, _ = fn(**{**inputs, **params})
    return bool(((out - target) ** 2).sum() / 2 < losses[0])


def _gradients(fn: Any, vjp: Any, inputs: Any, wrt: Collection[str], dout: Array) -> dict[str, Array]:
    grads = vjp(dout, fn(**inputs)[1])
    return {name: np.asarray(grads[split_name(name)[0]]) for name in wrt}


def _central(fn: Any, inputs: Mapping[str, Any], step: Mapping[str, Array]) -> Array:
    """f(x + step) - f(x - step)"""
    up, down = (fn(**{**inputs, **{n: np.asarray(inputs[n] + s * a) for n, a in step.items()}})[0] for s in (1, -1))
    return np.asarray(up - down)


def _along(grads: Mapping[str, Array], v: Mapping[str, Array]) -> float:
    """<gradients, v>; raises ValueError where a gradient is not as long as its array."""
    return sum(float(np.dot(grads[name].ravel(), a.ravel())) for name, a in v.items())


CHECKERS: dict[str, Checker] = {
    "tlora_ref": tlora_ref,
    "torch slow": torch_gradcheck(fast=False),
    "torch fast": torch_gradcheck(fast=True),
    "CS231n 1e-5": cs231n(1e-5),
    "CS231n 1e-7": cs231n(1e-7),
    "JAX": jax_style,
    "HIPS autograd": hips_style,
    "minitorch": minitorch_style,
    "loss falls": loss_falls,
}


# --- what they are asked about -------------------------------------------------------------------

POINTS = ("generic", "initial", "all")
"""Where a bug is looked for: pairwise different sizes, all arguments given, B != 0, alpha = 1.7; the point that
TLoRA and LayerNorm start from, B = 0, alpha = 1, gamma = 1, beta = 0; or every scenario of the kernel."""

SEED = 2
"""A seed at which ids repeat: elsewhere an embedding has nothing to add up."""


@dataclass(frozen=True)
class Problem:
    """What a checker is called with."""

    fn: Callable[..., Any]
    vjp: Callable[..., Any]
    inputs: Mapping[str, Any]
    wrt: tuple[str, ...]

    def accepted_by(self, checker: Checker, seed: int = 0) -> bool:
        """Its verdict; an exception is a rejection, a warning is nothing."""
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            try:
                return bool(checker(self.fn, self.vjp, self.inputs, self.wrt, seed))
            except Exception:
                return False


def problems(op: str, pair: Pair, point: str = "all", seed: int = SEED) -> Iterator[Problem]:
    """A forward and a backward of ``op`` (as in Mutant) at a point of ``POINTS``, "all": one after the other."""
    if point not in POINTS:
        raise InputError(f"point is {point!r}, expected one of {', '.join(POINTS)}")
    if op not in KERNELS:
        method = op.removeprefix("encoder").lstrip("_") or "tlora"
        small = encoder_loss(method, seed, rows=2, time=3, start=point == "initial", layers=1)
        rest = encoder_scenarios(method, seed) if point == "all" else ()
        losses = chain([small], (loss for _, loss in rest))
        yield from (_encoder_problem(pair, loss) for loss in losses)
        return
    placed = scenarios(KERNELS[op], seed)
    if point != "all":
        cases = dict(placed)
        chosen = "initial point" if point == "initial" and "initial point" in cases else "different sizes"
        placed = [(chosen, cases[chosen])]
    yield from (_problem(pair, case) for _, case in placed)


def _problem(pair: Pair, case: Case) -> Problem:
    wrt = [arg.name for arg in case.op.args if arg.base in case.op.wrt and case.args[arg.name] is not None]
    return Problem(*pair, case.args, tuple(wrt))


def _encoder_problem(pair: Pair, loss: Loss) -> Problem:
    """The loss of an encoder, its forward and backward exchanged for ``pair``."""
    from ..by_hand.ops import cross_entropy_bwd, cross_entropy_fwd

    def fn(**arrays: Array) -> tuple[Any, Any]:
        logits_NV, c_encoder = pair[0](loss.model.with_params(arrays), loss.x, loss.mask, loss.keep, loss.types)
        value, c_loss = cross_entropy_fwd(logits_NV, loss.labels)
        return value, (c_loss, c_encoder)

    def vjp(dloss: Any, cache: Any) -> dict[str, Array]:
        return pair[1](cross_entropy_bwd(dloss, cache[0])["logits"], cache[1])

    return Problem(fn, vjp, loss.inputs, tuple(loss.inputs))


def clean(configurations: int) -> Iterator[Problem]:
    """Right gradients at points drawn from 0, 1, 2 ...: every fifth an encoder, else a kernel of by_hand."""
    leads, ops = ((4,), (2, 3), (1,), ()), list(KERNELS.values())
    for seed in range(configurations):
        if seed % 5 == 0:
            loss = encoder_loss("tlora", seed, rows=2, time=3, layers=1)
            yield Problem(loss.fn, loss.vjp, loss.inputs, tuple(loss.inputs))
            continue
        op, lead = ops[seed % len(ops)], leads[seed % len(leads)]
        case = draw_case(op, seed, lead, sizes(np.random.default_rng([seed, 2]), op))
        yield _problem((op.fwd, op.bwd), case)


# --- the score -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """The mutants that a checker rejected and those it accepted, by name."""

    killed: tuple[str, ...]
    survived: tuple[str, ...]

    @property
    def missed(self) -> tuple[str, ...]:
        """Bugs it accepted."""
        return tuple(m.name for m in BUGS if m.name in self.survived)

    @property
    def false_alarms(self) -> tuple[str, ...]:
        """Controls it rejected: right gradients, written in another way."""
        return tuple(m.name for m in CONTROLS if m.name in self.killed)

    @property
    def ok(self) -> bool:
        """All bugs rejected, all controls accepted."""
        return not self.missed and not self.false_alarms


def score(checker: Checker, mutants: Iterable[Mutant] = ALL, point: str = "all", seed: int = SEED) -> Score:
    """Try a checker on mutants: one is killed if it is rejected at ``point`` (of POINTS), or, for "all", at one
    scenario at least."""
    killed, survived = [], []
    for mutant in mutants:
        accepted = all(
            problem.accepted_by(checker, seed) for problem in problems(mutant.op, mutant.pair(), point, seed)
        )
        (survived if accepted else killed).append(mutant.name)
    return Score(tuple(killed), tuple(survived))
