"""One point: the inputs, the random cotangents, the hand-written gradients, and what is wrong with them as such.

What holds for every gradient whatever its values is the protocol, checked without any oracle: a gradient for
every declared array and no other, of its shape and dtype; the same bits every time; inputs, cotangent and
cache left as they were; no memory shared; zero for a zero cotangent; the same numbers for any memory layout; and
every backward from its own cache, whatever ran between it and its forward.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from numbers import Number
from typing import Any

import numpy as np

from ..shapes import InputError, split_name
from .oracles import Oracle, spell, to_fractions
from .pair import Array, Pair, kind, leaves, rebuilt, relayout
from .report import Protocol

PROTOCOL = ("keys, shapes and dtypes", "same bits twice", "inputs unchanged", "no shared memory",
            "zero for a zero cotangent", "any memory layout", "every call its own cache")  # fmt: skip


class Point:
    """The hand-written gradients at one point, for every cotangent, and what is wrong with them as such."""

    def __init__(self, pair: Pair, inputs: Mapping[str, Any], wrt: Any, oracle: Oracle, cotangents: int, seed: int):
        check_inputs(inputs)
        self.pair = pair
        inputs = {k: np.asarray(v) if isinstance(v, np.floating) else v for k, v in inputs.items()}
        # the exact oracle has the hand-written gradient in fractions too, all others in the given precision
        self.arrays = {k: oracle.lift(v) for k, v in inputs.items()} if oracle.name == "exact" else inputs
        self.names = declared(pair.vjp, inputs, wrt)
        self.rng = np.random.default_rng(seed)
        self.problems: dict[str, str] = {}  # array -> why its gradient cannot be compared
        self.unstable: set[str] = set()
        self.random = False  # whether fn itself gives other numbers each time
        out, cache = self._first_forward()
        self.out = out
        single = any(isinstance(a, np.ndarray) and a.dtype == np.float32 for a in self.arrays.values())
        self.dtype = np.float32 if single else np.float64
        self.douts = [[self.draw(np.shape(a)) for a in leaves(out)] for _ in range(cotangents)]
        hands = []
        for dout in self.douts:
            gradients, problems = self._gradients(relayout(dout, "K"), cache, relayout(self.arrays, "K"))
            hands.append({name: gradient.copy() for name, gradient in gradients.items()})
            self.problems |= problems
        self.hands = [{name: hand[name] for name in self.names if name not in self.problems} for hand in hands]

    def draw(self, shape: tuple[int, ...]) -> Array:
        """A random cotangent: one of ones would hide bugs in softmax and LayerNorm."""
        numbers = np.asarray(self.rng.standard_normal(shape))
        if any(isinstance(a, np.ndarray) and a.dtype == object for a in self.arrays.values()):
            return to_fractions(np.round(8 * numbers) / 8 + 0.0625)  # short fractions, none of them zero
        return numbers.astype(self.dtype)

    def _first_forward(self) -> tuple[Any, Any]:
        try:
            out, cache = self.pair.forward(relayout(self.arrays, "K"))
        except InputError:
            raise
        except (Exception, SystemExit) as error:
            shapes = ", ".join(f"{k} {np.shape(v)}" for k, v in self.arrays.items() if isinstance(v, np.ndarray))
            raise InputError(f"fn failed on {shapes}: {spell(error)}") from error
        if not leaves(out):
            raise InputError(f"fn returned {kind(out)} without an array in it")
        for i, array in enumerate(leaves(out)):
            if array.dtype.kind not in "fO" or not _numeric(array):
                raise InputError(f"fn's output {i} has dtype {array.dtype}, expected floating point")
            if not finite(array):
                raise InputError(f"fn's output {i} is {first_bad(array)}, for finite inputs")
        return out, cache

    def _gradients(
        self, dout: list[Array], cache: Any, inputs: Mapping[str, Any]
    ) -> tuple[dict[str, Array], dict[str, str]]:
        """What vjp returns, by the names of the inputs, and why what cannot be compared cannot."""
        try:
            returned = self.pair.backward(rebuilt(self.out, list(dout)), cache, inputs)
        except (Exception, SystemExit) as error:
            return {}, dict.fromkeys(self.names, f"vjp failed: {spell(error)}")
        if not isinstance(returned, Mapping):
            expected = f"vjp returned {kind(returned)}, expected a dictionary {{name: gradient}}"
            return {}, dict.fromkeys(self.names, expected)
        gradients: dict[str, Array] = {}
        problems: dict[str, str] = {}
        for key, value in returned.items():
            name = match(key, self.arrays)
            if name is None:
                problems[str(key)] = f"vjp returned {key!r}, expected {_some(self.names)}"
            elif name in self.names:
                try:
                    gradients[name] = value if isinstance(value, np.ndarray) else np.asarray(value)
                except ValueError:
                    problems[name] = f"its gradient is {kind(value)} of unequal rows, expected an array of numbers"
            elif self.arrays[name] is not None:
                problems[str(key)] = f"vjp returned {key!r}, which is held fixed: not in wrt, or no array of floats"
        problems = {n: p for n in self.names if (p := self._problem(n, gradients))} | problems
        return {name: gradient for name, gradient in gradients.items() if name not in problems}, problems

    def _problem(self, name: str, gradients: Mapping[str, Array]) -> str:
        shape = np.shape(self.arrays[name])
        if name not in gradients:
            return "vjp returned no gradient for it"
        gradient = gradients[name]
        if gradient.dtype.kind not in "fO" or not _numeric(gradient):
            return f"its gradient has dtype {gradient.dtype}, expected {np.asarray(self.arrays[name]).dtype}"
        if gradient.shape != shape:
            return f"its gradient has shape {gradient.shape}, expected {shape}"
        return "" if finite(gradient) else f"its gradient is {first_bad(gradient)}"

    # --- the protocol: what holds for every gradient, whatever its values

    def protocol(self, rtol: float, floor: float) -> list[Protocol]:
        """Every check of PROTOCOL; only the first when no gradient can be compared. Layouts may differ in the
        last bits: ``rtol`` of the gradient, and ``floor``."""
        wrong = [f"{name}: {text}" if name in self.names else text for name, text in self.problems.items()]
        if not self.hands[0]:
            return [Protocol(PROTOCOL[0], False, "; ".join(dict.fromkeys(wrong)))]
        wrong += [
            f"d{name} is {hand.dtype}, {name} is {self.arrays[name].dtype}"
            for name, hand in self.hands[0].items()
            if hand.dtype != self.arrays[name].dtype
        ]
        problems = [wrong, self._twice(), *self._one_call(), self._zero(), self._layouts(rtol, floor), self._caches()]
        return [
            Protocol(name, not notes, "; ".join(dict.fromkeys(notes)))
            for name, notes in zip(PROTOCOL, problems, strict=True)
        ]

    def _call(self, dout: list[Array], order: str = "K") -> tuple[Any, Any, dict[str, Array], str]:
        """(inputs, cache, gradients, why not) of a fresh call on arrays of their own, in some memory order."""
        inputs = relayout(self.arrays, order)
        try:
            _, cache = self.pair.forward(inputs)
        except (Exception, SystemExit) as error:
            return inputs, None, {}, f"fn failed: {spell(error)}"
        gradients, problems = self._gradients(relayout(dout, order), cache, inputs)
        missing = [f"d{name}: {problems[name]}" for name in self.hands[0] if name in problems]
        return inputs, cache, gradients, "; ".join(missing)

    def _twice(self) -> list[str]:
        """A fresh call, and a second backward from one cache."""
        try:
            out, _ = self.pair.forward(relayout(self.arrays, "K"))
        except Exception as error:
            return [f"fn failed the second time: {spell(error)}"]
        if not all(map(same_bits, leaves(out), leaves(self.out))):
            self.random, self.unstable = True, {*self.unstable, *self.names}
            return ["fn gives other numbers the second time"]
        inputs, cache, again, _ = self._call(self.douts[0])
        later, _ = self._gradients(relayout(self.douts[0], "K"), cache, inputs)
        for name, first in self.hands[0].items():
            if not all(
                name in later_gradients and same_bits(first, later_gradients[name])
                for later_gradients in (again, later)
            ):
                self.unstable.add(name)
        return [f"d{name} has other numbers the second time" for name in self.names if name in self.unstable]

    def _one_call(self) -> tuple[list[str], list[str]]:
        """What changed, and what shares memory, in one forward and backward on arrays of their own."""
        inputs, dout = relayout(self.arrays, "K"), relayout(self.douts[0], "K")
        try:
            out, cache = self.pair.forward(inputs)
        except Exception as error:
            return [f"fn failed: {spell(error)}"], []
        changed = [f"fn changed {k}" for k, v in inputs.items() if not same_bits(v, self.arrays[k])]
        inputs_then, cached = relayout(inputs, "K"), relayout(leaves(cache), "K")
        grads, _ = self._gradients(dout, cache, inputs)
        changed += [f"vjp changed {k}" for k, v in inputs.items() if not same_bits(v, inputs_then[k])]
        changed += ["vjp changed the cotangent"] if not all(map(same_bits, dout, self.douts[0])) else []
        changed += ["vjp changed the cache"] if not all(map(same_bits, leaves(cache), cached)) else []
        if self.pair.shared_memory:
            return changed, []
        owners = [*inputs.items(), *(("the cotangent", a) for a in dout)]
        results = {**{f"output {i}": a for i, a in enumerate(leaves(out))}, **{f"d{k}": a for k, a in grads.items()}}
        shared = [f"{r} shares memory with {o}" for r, a in results.items() for o, b in owners if overlap(a, b)]
        pairs = [(r, o) for i, r in enumerate(results) for o in list(results)[:i]]
        return changed, shared + [f"{r} shares memory with {o}" for r, o in pairs if overlap(results[r], results[o])]

    def _zero(self) -> list[str]:
        _, _, grads, failed = self._call([0 * a for a in self.douts[0]])
        notes = [f"d{name} is not zero" for name, gradient in grads.items() if np.asarray(gradient != 0).any()]
        return [*notes, failed] if failed else notes

    def _layouts(self, rtol: float, floor: float) -> list[str]:
        notes = []
        for order, spoken in (("C", "C-ordered"), ("F", "F-ordered"), ("gaps", "non-contiguous")):
            _, _, grads, failed = self._call(self.douts[0], order)
            notes += [f"for {spoken} arguments {failed}"] if failed else []
            for name, gradient in grads.items():
                expected = self.hands[0].get(name, gradient)
                error = norm(gradient - expected)
                if not error <= rtol * norm(expected) + floor:
                    notes.append(f"d{name} differs by {error:.1e} for {spoken} arguments")
        return notes

    def _caches(self) -> list[str]:
        """Forward here, forward at another point, and the backward from the first cache; then the other order, both
        backwards after both forwards. A buffer that is used again, or a global of the last forward, shows."""
        rng = np.random.default_rng(0)
        other = {k: self._moved(v, rng) if k in self.names else v for k, v in self.arrays.items()}
        here, there = relayout(self.arrays, "K"), relayout(other, "K")
        dout = self.douts[0]
        try:
            with np.errstate(all="ignore"):
                _, alone = self.pair.forward(relayout(other, "K"))
                lone = self._kept(dout, alone, relayout(other, "K"))
                _, first = self.pair.forward(here)
                _, second = self.pair.forward(there)
                late = self._kept(dout, second, there)
                early = self._kept(dout, first, here)
        except (Exception, SystemExit):
            return []  # fn does not take the other point
        notes = []
        for name, right in self.hands[0].items():
            if name in self.unstable or name not in early or name not in late or name not in lone:
                continue
            if not same_bits(early[name], right):
                notes.append(f"d{name} is another once fn has run at a second point before vjp")
            elif not same_bits(late[name], lone[name]):
                notes.append(f"d{name} is another where two forwards run before the two backwards")
        return notes

    def _kept(self, dout: list[Array], cache: Any, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """The gradients, in memory of their own."""
        gradients, _ = self._gradients(relayout(dout, "K"), cache, inputs)
        return {name: gradient.copy() for name, gradient in gradients.items()}

    def _moved(self, x: Any, rng: np.random.Generator) -> Any:
        if x.dtype == object:
            return x + x / 4
        return np.asarray(x * rng.uniform(0.8, 1.2, x.shape), dtype=x.dtype)


def check_inputs(inputs: Mapping[str, Any]) -> None:
    """Raises InputError for what no oracle can use."""
    for name, value in inputs.items():
        if isinstance(value, float) and not np.isfinite(value):
            raise InputError(f"{name} is {value}, expected a finite number")
        if not isinstance(value, (np.ndarray, np.generic)) or value.dtype.kind in "biu":
            continue
        if value.dtype not in (np.float64, np.float32, object):
            raise InputError(f"{name} has dtype {value.dtype}, expected float64 or float32")
        if not finite(value):
            raise InputError(f"{name} is {first_bad(value)}, expected finite numbers")


def declared(vjp: Any, inputs: Mapping[str, Any], wrt: Collection[str] | None) -> list[str]:
    """The inputs that must have a gradient, by their names in ``inputs``. Raises InputError."""
    differentiable = [k for k, v in inputs.items() if isinstance(v, np.ndarray) and v.dtype.kind in "fO"]
    if wrt is None:
        carried = getattr(vjp, "gradients", None)
        wrt = differentiable if carried is None else carried
    elif isinstance(wrt, str):
        raise InputError(f"wrt is the text {wrt!r}, expected a collection of names")
    names = []
    for key in wrt:
        name = match(key, inputs)
        if name is None:
            raise InputError(f"wrt names {key!r}, which is not among the inputs {_some(inputs)}")
        if name in differentiable:
            names.append(name)
        elif inputs[name] is not None:
            arrays = getattr(inputs[name], "dtype", type(inputs[name]).__name__)
            raise InputError(f"wrt names {key!r}, which is a {arrays}, expected a floating-point array")
    if not names:
        raise InputError(f"nothing to differentiate by: no floating-point array among the inputs {_some(inputs)}")
    return list(dict.fromkeys(names))


def match(key: Any, names: Collection[str]) -> str | None:
    """The name that a gradient's key means: itself, or the one that it is without the letters of its shape."""
    return key if key in names else next((name for name in names if split_name(name)[0] == key), None)


def _some(names: Collection[str]) -> str:
    return ", ".join(list(names)[:8]) + (", ..." if len(names) > 8 else "") if names else "(none)"


def finite(array: Any) -> bool:
    """Neither NaN nor infinite; fractions never are."""
    return array.dtype == object or bool(np.isfinite(array).all())


def _numeric(array: Any) -> bool:
    """Numbers alone; an array of objects may hold anything."""
    return array.dtype != object or all(isinstance(x, Number) or hasattr(x, "_mpf_") for x in array.flat)


def first_bad(array: Any) -> str:
    """ "nan at [0, 2]" """
    where = np.argwhere(~np.isfinite(array))[0].tolist()
    return f"{np.asarray(array)[tuple(where)]} at {where}"


def same_bits(a: Any, b: Any) -> bool:
    """Equal in every number, NaN equal to NaN; anything that is no array counts as equal."""
    if not (isinstance(a, np.ndarray) and isinstance(b, np.ndarray)):
        return True
    return a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def overlap(a: Any, b: Any) -> bool:
    """Whether two arrays share memory."""
    return isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and np.shares_memory(a, b)


def norm(array: Any) -> float:
    """The largest absolute value, as a float."""
    return float(np.max(np.abs(array))) if np.size(array) else 0.0
