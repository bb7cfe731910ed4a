"""hypothesis strategies: the arguments of any kernel, with pairwise different sizes where it matters.

A drawn case is a dictionary of keyword arguments for ``op.fwd``. Ranges follow what was measured to catch
every seeded bug: B and alpha away from their initial values, scales over six decades, F-ordered arrays half
the time, optional arguments given half the time.
"""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from tlora_ref.by_hand.kernels import KERNELS
from tlora_ref.methods import Kernel
from tlora_ref.verification.scenarios import ALPHAS, Case, draw_case, sizes

__all__ = ["ALPHAS", "LEADS", "Case", "cases", "draw_case", "sizes"]

LEADS = ((), (1,), (4,), (2, 3))  # the leading axes that N stands for


@st.composite
def cases(draw: st.DrawFn, op: Kernel | str, scales: tuple[float, ...] = (1.0,)) -> Case:
    """A Case for the op: seeds, leading axes, sizes and input scales drawn by hypothesis."""
    op = KERNELS[op] if isinstance(op, str) else op
    seed = draw(st.integers(0, 2**32 - 1))
    lead = draw(st.sampled_from(LEADS))
    return draw_case(op, seed, lead, sizes(np.random.default_rng([seed, 2]), op), draw(st.sampled_from(scales)))


def projected_out(case: Case) -> float:
    """|x| / |v| for a vector v whose length does not matter, as in a reflection by v / |v|; 0 for other kernels. Terms
    of this size times the cotangent cancel in the gradient of v, and their rounding stays."""
    vectors = {"reflect_unit": ("v_D",), "hta_unit_linear": ("left_I", "right_O")}.get(case.op.name, ())
    x = np.linalg.norm(next(iter(case.args.values())))
    return max([0.0, *(float(x / np.linalg.norm(case.args[name])) for name in vectors)])
