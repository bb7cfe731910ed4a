"""A seeded gradient bug: one edit in the source of a kernel, and when it can be seen.

A mutant is written as what a person would change, the right text and the wrong one, so ``diff()`` shows it as
a diff and ``pair()`` is the kernel's own file with that edit made. Forward values stay right in every mutant.

Conditions    ``visible`` names what must hold for the gradients to differ from the right ones, all of it;
              ``CONDITIONS`` says of any arguments whether it holds. No condition: visible everywhere.
Checked by    tests/test_mutants.py: each edit applies, forwards agree, gradients differ where the conditions
              hold and agree where one alone fails.
"""

from __future__ import annotations

import inspect
import linecache
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from math import prod
from types import ModuleType
from typing import Any

import numpy as np

from ...by_hand.encoder import encoder_fwd
from ...by_hand.kernels import KERNELS
from ...shapes import bind, split_name

Pair = tuple[Callable[..., Any], Callable[..., Any]]


@dataclass(frozen=True)
class Mutant:
    """A wrong backward of ``op``; a control when it is wrong in looks only.

    ``op`` is a row of the registry, "encoder" for an encoder with TLoRA, or "encoder_METHOD".
    """

    name: str
    op: str
    family: str
    right: str
    wrong: str
    says: str  # what a teacher would say
    visible: tuple[str, ...] = ()
    at: str = "bwd"  # the function edited: "bwd" and "fwd" are the op's own, anything else is a function's name
    equivalent: bool = False

    @property
    def kernel(self) -> str:
        """The first part of the names of its forward and backward."""
        return inspect.unwrap(self._forward).__name__.removesuffix("_fwd")

    @property
    def file(self) -> ModuleType:
        """The module of by_hand that holds the kernel."""
        return sys.modules[inspect.unwrap(self._forward).__module__]

    @property
    def _forward(self) -> Callable[..., Any]:
        fwd = KERNELS[self.op].fwd if self.op in KERNELS else encoder_fwd
        return fwd.func if isinstance(fwd, partial) else fwd

    @property
    def function(self) -> str:
        """The name of the function that is edited."""
        return f"{self.kernel}_{self.at}" if self.at in ("fwd", "bwd") else self.at

    def source(self) -> tuple[str, str]:
        """The text of the edited function, right and wrong. Raises LookupError if the edit does not fit it."""
        text = inspect.getsource(getattr(self.file, self.function))
        if text.count(self.right) != 1:
            raise LookupError(f"mutant {self.name}: {self.function} has {self.right!r} {text.count(self.right)} times")
        return text, text.replace(self.right, self.wrong)

    def diff(self) -> str:
        """The lines that differ, "- " before the right ones and "+ " before the wrong ones."""
        right, wrong = (text.splitlines() for text in self.source())
        head = next(i for i, (r, w) in enumerate(zip(right, wrong, strict=False)) if r != w)
        tail = next(i for i, (r, w) in enumerate(zip(right[::-1], wrong[::-1], strict=False)) if r != w)
        marked = [("- ", right[head : len(right) - tail]), ("+ ", wrong[head : len(wrong) - tail])]
        return "\n".join(sign + line.strip() for sign, lines in marked for line in lines)

    def pair(self) -> Pair:
        """(fwd, bwd) of the op with the edit made: fresh functions on every call, sharing no state."""
        module = ModuleType(self.file.__name__)
        module.__package__ = self.file.__package__
        vars(module)["np"] = np
        exec(_compiled(self), vars(module))
        fwd, bwd = getattr(module, f"{self.kernel}_fwd"), getattr(module, f"{self.kernel}_bwd")
        right = KERNELS[self.op].fwd if self.op in KERNELS else encoder_fwd
        return partial(fwd, **right.keywords) if isinstance(right, partial) else fwd, bwd

    def shows(self, arguments: Mapping[str, Any]) -> bool:
        """Do all of its conditions hold for these arguments of the forward?"""
        return all(holds(condition, arguments) for condition in self.visible)


@cache
def _compiled(mutant: Mutant) -> Any:
    right, wrong = mutant.source()
    text = inspect.getsource(mutant.file).replace(right, wrong)
    filename = f"<{mutant.name}>"
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)  # for tracebacks
    return compile(text, filename, "exec")


# --- conditions ----------------------------------------------------------------------------------
# a: the arguments by the first part of their names; n: the size of each letter, N's a tuple of leading axes


def _in_f_order(array: Any) -> bool:
    """Does the memory, read from front to back, hold the values in another order than the indices do?"""
    return not np.array_equal(array.ravel(order="K"), array.ravel(order="C"))


def _real(a: Any, n: Any) -> Any:
    """How many tokens each sequence has, or entries each row of a softmax: what its mask leaves."""
    return np.asarray(n.get("T") or n["V"]) if a["mask"] is None else a["mask"].sum(axis=-1)


def _hidden(a: Any, n: Any) -> bool:
    """Is there a sequence of which some tokens are hidden and some are not?"""
    return bool(((_real(a, n) > 0) & (_real(a, n) < n["T"])).any())


CONDITIONS: dict[str, Callable[[Any, Any], bool]] = {
    "B != 0": lambda a, n: bool(np.any(a["B"])),
    "M != 0": lambda a, n: bool(np.any(a["M"])),
    "lambda_b != 0": lambda a, n: bool(np.any(a["lambda_b"])),
    "alpha != 0": lambda a, n: a["alpha"] != 0,
    "alpha or B != 0": lambda a, n: bool(a["alpha"] != 0 or np.any(a["B"])),
    "alpha != 1": lambda a, n: a["alpha"] != 1,
    "scale != 1": lambda a, n: a["scale"] != 1,
    "gamma != 1": lambda a, n: bool(np.any(a["gamma"] != 1)),
    "dropout": lambda a, n: a["keep"] is not None and bool(np.ptp(a["keep"]) > 0),
    "more than one row": lambda a, n: prod(n["N"]) > 1,
    "more than one leading axis": lambda a, n: len(n["N"]) > 1 and prod(n["N"]) > n["N"][0],
    "a leading axis": lambda a, n: len(n["N"]) > 0,
    "R or S > 1": lambda a, n: n["R"] > 1 or n["S"] > 1,
    "more than one head": lambda a, n: n["H"] > 1,
    "K > 1 in B": lambda a, n: n["K"] > 1,
    "X > 1": lambda a, n: n["X"] > 1,
    "Y > 1": lambda a, n: n["Y"] > 1,
    "Z > 1": lambda a, n: n["Z"] > 1,
    "a value cut off": lambda a, n: bool((a["sigma"] + a["delta"] < 0).any()),
    "a value left": lambda a, n: bool((a["sigma"] + a["delta"] > 0).any()),
    "D > 1": lambda a, n: n["D"] > 1,
    "V > 1": lambda a, n: n["V"] > 1,
    "R or O > 1": lambda a, n: n["R"] > 1 or n["O"] > 1,
    "R > 1": lambda a, n: n["R"] > 1,
    "R > block": lambda a, n: n["R"] > a["block"],
    "D or R > 1": lambda a, n: n["D"] > 1 or n["R"] > 1,
    "R or S = 1": lambda a, n: n["R"] == 1 or n["S"] == 1,
    "I or O > 1": lambda a, n: n["I"] > 1 or n["O"] > 1,
    "B in F-order": lambda a, n: _in_f_order(a["B"]),
    "ids in F-order": lambda a, n: _in_f_order(a["ids"]),
    "an id twice": lambda a, n: np.unique(a["ids"]).size < a["ids"].size,
    "id 0": lambda a, n: bool((a["ids"] == 0).any()),
    "no last id": lambda a, n: a["ids"].max() + 1 < n["V"],
    "rows not as many as classes": lambda a, n: prod(n["N"]) != n["V"],
    "T > 1": lambda a, n: n["T"] > 1,
    "T < time": lambda a, n: n["T"] < a["position.W"].shape[0],
    "positions by index": lambda a, n: a["pad_id"] is None,
    "counted positions": lambda a, n: a["pad_id"] is not None,
    "two token types": lambda a, n: "type.W" in a and len(a["type.W"]) > 1,
    "a pooler": lambda a, n: "pooler.W" in a,
    "H > 1": lambda a, n: a["heads"] > 1,
    "K > 1": lambda a, n: n["D"] > a["heads"],
    "two to attend to": lambda a, n: bool((_real(a, n) > 1).any()),
    "some tokens hidden": _hidden,
    "some attention hidden": lambda a, n: bool((_real(a, n) < n["T"]).any() or (a["causal"] and n["T"] > 1)),
    "an entry below 0": lambda a, n: bool((a["x"] < 0).any()),
    "an active unit": lambda a, n: bool((a["z"] @ a["down"] + a["down_b"] > 0).any()),
    "the second call": lambda a, n: True,
    "cotangent != 1": lambda a, n: True,
}


def holds(condition: str, arguments: Mapping[str, Any]) -> bool:
    """Does one of ``CONDITIONS`` hold for the arguments of a forward, as in ``{"x_NI": ..., "alpha": ...}``?"""
    sizes: dict[str, Any] = {"N": ()}
    for name, value in arguments.items():
        letters = split_name(name)[1]
        if value is not None and letters:
            sizes |= bind("arguments", **{name: value})
    return bool(CONDITIONS[condition]({split_name(name)[0]: value for name, value in arguments.items()}, sizes))
