"""What the PyTorch twin of an adapter method is, and what every twin is made of.

Twin        methods.Method, with the kernels in by_hand/methods/.
Checked by  tests/test_twin.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..methods import Site
from .ops import frozen_linear as frozen_linear

Drop = Callable[[Tensor], Tensor]
"""Dropout as a function of what it acts on: the input or the update, as the method has it."""


@dataclass(frozen=True, eq=False)
class Twin:
    """A method in PyTorch, forward only; the gradients are autograd's.

    linear        the kernel's twin, with the kernel's arguments; for a block's adapter what it adds
    layer         (x, y, W0, b, drop, **arrays) -> the adapted output, where y = base(x) is finished: what sits beside a
                  linear layer of any model. None for an adapter that sits in a block
    delta_w       (W0, **arrays) -> dW = W' - W0 (I, O). None where nothing can be merged
    constants_of  (W0, **arrays) -> further arguments of ``linear`` that are held constant
    view          (arrays by base, site) -> the arguments by name, made where the arrays are. None: as the Method has it
    """

    linear: Callable[..., Tensor]
    layer: Callable[..., Tensor] | None = None
    delta_w: Callable[..., Tensor] | None = None
    constants_of: Callable[..., dict[str, Tensor]] | None = None
    view: Callable[[dict[str, Tensor], Site], dict[str, Any]] | None = None


def masked(keep: Tensor | None) -> Drop:
    """Dropout by a mask that is already divided by (1 - p); None: no dropout."""
    return lambda tensor: tensor if keep is None else keep * tensor
