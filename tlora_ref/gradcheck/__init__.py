"""Verification of hand-written gradients: for anyone's function, with no knowledge of this project's methods.

checker.py      check(fn, vjp, inputs): a verdict per array
comparison.py   hand against oracle at one point: how close they must come
confirm.py      how far the oracle is to be believed, and what takes its place
kinks.py        points with two slopes
report.py       what a check found, as text, HTML and JSON
point.py        the gradients at one point, and the protocol every gradient keeps
points.py       further points, made from the given one
trace.py        which functions a forward goes through, and whether the complex step can follow
pair.py         calling a function and its backward, whatever their form
oracles.py      derivatives from function values alone: complex step, differences, fractions, 50 digits
arithmetic.py   arrays of fractions, and of 50-digit numbers that kernels run on
hints.py        what a wrong factor may be
torch_check.py  check_torch(fn_or_module, inputs): the same for torch
"""

from typing import Any

from .checker import check
from .oracles import ORACLES, OracleError, central_gradient, complex_step_gradient, relative_error
from .report import GradientError, Report, Row

__all__ = [
    "ORACLES",
    "GradientError",
    "OracleError",
    "Report",
    "Row",
    "central_gradient",
    "check",
    "check_torch",
    "complex_step_gradient",
    "relative_error",
]


def __getattr__(name: str) -> Any:
    if name == "check_torch":  # the only name here that needs torch
        from .torch_check import check_torch

        return check_torch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
