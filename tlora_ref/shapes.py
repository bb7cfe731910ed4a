"""The one table of dimension letters, and the check that arrays agree with their names.

Every array in the kernels carries its shape in its name: ``x_NI`` has axes N and I, ``A_IR`` has I and R,
so ``x_NI @ A_IR`` is (N, R) and reads as its own shape check. A gradient is ``d`` + the name.
A, B and C are the three matrices of TLoRA and never dimensions. The checks read NumPy arrays and tensors alike.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache, lru_cache, wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
Result = TypeVar("Result")

LETTERS = {
    "N": "rows: examples or tokens. As a first letter it stands for any number of leading axes, also none",
    "T": "time: positions in a sequence",
    "I": "input width of a linear map",
    "O": "output width of a linear map",
    "R": "rank of the adapter",
    "S": "second rank: the method sets S = R; the kernels also take R != S, so a transposed B is an error",
    "D": "model width: H * K",
    "H": "attention heads",
    "K": "width of one head",
    "F": "hidden width of the feed-forward block",
    "V": "vocabulary size, or number of classes",
    "L": "layers",
    "M": "entries of a diagonal, or singular values, of a linear map: min(I, O)",
    "P": "kinds of matrix in a layer: query, key, value, output, ...",
    "X": "first of the three factors of an input width: I = X * Y * Z",
    "Y": "second of them",
    "Z": "third of them",
    "Q": "numbers of a triangle of blocks, on and below the block diagonal of an R x R matrix",
}

TIES = {"I": "X * Y * Z", "M": "min(I, O)", "D": "H * K"}
"""The letters whose sizes follow from others that occur beside them."""


class InputError(ValueError):
    """What the caller gave cannot be used; the message names what was given and what was expected."""


class ShapeError(InputError):
    """An array whose shape contradicts its letters."""


@cache
def split_name(name: str) -> tuple[str, str]:
    """``"x_NI" -> ("x", "NI")``; a name without a suffix of letters is a scalar: ``"alpha" -> ("alpha", "")``."""
    base, _, letters = name.rpartition("_")
    if base and letters and all(letter in LETTERS for letter in letters):
        return base, letters
    return name, ""


def tied(sizes: Mapping[str, int]) -> dict[str, int]:
    """The sizes of the letters that follow from others: I from X, Y and Z, M from I and O, D from H and K."""
    tied_sizes = {}
    if "X" in sizes and "Y" in sizes and "Z" in sizes:
        tied_sizes["I"] = sizes["X"] * sizes["Y"] * sizes["Z"]
    if "I" in sizes and "O" in sizes:
        tied_sizes["M"] = min(tied_sizes.get("I", sizes["I"]), sizes["O"])
    if "H" in sizes and "K" in sizes:
        tied_sizes["D"] = sizes["H"] * sizes["K"]
    return tied_sizes


def bind(op: str, **arrays: Any) -> dict[str, Any]:
    """Check the arrays against the letters in their names; return the size of each letter.

    A first letter N takes all leading axes, and its size is a tuple. ``None`` (an optional argument that was
    not given) is passed over.

    Raises
    ------
    ShapeError
        naming the operation, the array, its shape, and the array that fixed the letter it contradicts.
    """
    shapes = {name: tuple(getattr(array, "shape", ())) for name, array in arrays.items() if array is not None}
    return dict(_bind(op, tuple(shapes.items())))


@lru_cache(maxsize=4096)
def _bind(op: str, shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> dict[str, Any]:
    # a training run checks the same shapes at every step; what raises is not kept
    sizes: dict[str, Any] = {}
    fixed_by: dict[str, str] = {}
    for name, shape in shapes:
        letters = split_name(name)[1]
        pairs: list[tuple[str, Any]] = []
        if letters[:1] == "N":
            tail, lead = letters[1:], len(shape) - len(letters) + 1
            fits = lead >= 0
            if fits:
                pairs = [("N", shape[:lead]), *zip(tail, shape[lead:], strict=True)]
        else:
            fits = len(shape) == len(letters)
            if fits:
                pairs = list(zip(letters, shape, strict=True))
        if not fits:
            raise ShapeError(f"{op}: {name} has shape {shape}, expected axes {_spell(letters)}")
        for letter, size in pairs:
            if sizes.setdefault(letter, size) != size:
                other = fixed_by[letter]
                raise ShapeError(
                    f"{op}: {name} has shape {shape}, so {letter} = {size}, "
                    f"but {other} has shape {dict(shapes)[other]}, so {letter} = {sizes[letter]}"
                )
            fixed_by.setdefault(letter, name)
    for letter, size in tied(sizes).items():
        if sizes.get(letter, size) != size:
            name = fixed_by[letter]
            raise ShapeError(
                f"{op}: {name} has shape {dict(shapes)[name]}, so {letter} = {sizes[letter]}, "
                f"expected {letter} = {TIES[letter]} = {size}"
            )
    return sizes


def shaped(function: Callable[P, Result]) -> Callable[P, Result]:
    """Check every argument against the letters in its parameter's name whenever the function is called, as ``bind``
    does: the decorator of every kernel. An argument without letters, such as ``alpha``, has to be a scalar, and an
    argument that is no array counts as one.

    Raises
    ------
    ShapeError
        from the decorated function, before it computes anything.
    """
    names = tuple(inspect.signature(function).parameters)
    op = function.__name__.removesuffix("_fwd")

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> Result:
        arguments = [*zip(names, args, strict=False), *kwargs.items()]
        _bind(op, tuple((name, tuple(getattr(a, "shape", ()))) for name, a in arguments if a is not None))
        return function(*args, **kwargs)

    checked.__dict__["shaped"] = True
    return checked


def is_shaped(function: Any) -> bool:
    """Is the function, or what a partial of it calls, decorated with ``shaped``?"""
    return getattr(getattr(function, "func", function), "shaped", False)


def dtype_name(array: Any) -> str:
    """ "float32", of a NumPy array and of a tensor."""
    return _name_of(array.dtype)


@cache
def _name_of(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def check_ids(label: str, ids: Any, below: int) -> None:
    """Raise InputError unless ``ids`` are integers in 0..below-1. The range of a tensor that is not on the CPU is not
    looked at: to read a number the program would wait until the device has done all that it was given."""
    if not dtype_name(ids).startswith(("int", "uint")):
        raise InputError(f"{label} has dtype {dtype_name(ids)}, expected integers")
    if str(ids.device) != "cpu" or 0 in ids.shape:
        return
    if not (ids.min() >= 0 and ids.max() < below):
        raise InputError(f"{label} has values from {int(ids.min())} to {int(ids.max())}, expected 0 to {below - 1}")


def check_mask(label: str, mask: Any) -> None:
    """Raise InputError unless ``mask`` holds booleans."""
    if dtype_name(mask) != "bool":
        raise InputError(f"{label} has dtype {dtype_name(mask)}, expected bool: True where an entry takes part")


def _spell(letters: str) -> str:
    if not letters:
        return "() (a scalar)"
    axes = ["..." if i == 0 and letter == "N" else letter for i, letter in enumerate(letters)]
    return "(" + ", ".join(axes) + ")"
