"""What a room is to the code that both share: by_hand and by_autograd are such modules.

Training, merging, chains and the allocation of ranks are written once, and take the room as their first argument:

    from tlora_ref import by_hand, by_autograd
    train(by_hand, model, inputs, labels, config)            # a Model with NumPy arrays
    train(by_autograd, to_torch(model), inputs, labels, config)   # the same Model with tensors
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from .config import TrainConfig
    from .model import Model

Arrays = Mapping[str, Any]


@dataclass(frozen=True)
class Optimizer:
    """An optimizer as three functions over arrays by name.

    init   (params, config) -> its state
    step   (params, grads, state, lr, config) -> the params one step on; the state advances in place
    carry  (state, before, after, config) -> the state for params that have other names or shapes than those before:
           what becomes of it when the model changes between two steps. What an array of the same name has got longer
           by, along one axis, starts afresh, with a count of steps of its own
    """

    init: Callable[[Arrays, TrainConfig], Any]
    step: Callable[[Arrays, Arrays, Any, float, TrainConfig], dict[str, Any]]
    carry: Callable[[Any, Arrays, Arrays, TrainConfig], Any]


def longer_axis(before: tuple[int, ...], after: tuple[int, ...]) -> int | None:
    """The one axis along which an array of that shape has got longer; None if it has not, or has changed otherwise."""
    changed = [axis for axis, (old, new) in enumerate(zip(before, after, strict=False)) if old != new]
    grown = len(before) == len(after) and len(changed) == 1 and before[changed[0]] < after[changed[0]]
    return changed[0] if grown else None


class Room(Protocol):
    """The functions and tables that a room has at its top."""

    OPTIMIZERS: Mapping[str, Optimizer]

    @staticmethod
    def own(model: Model, like: Model | None = None) -> Model:
        """The model with arrays of its own where it trains, so that the given one stays as it is. NumPy arrays in it
        become what those of ``like`` are, and where they are."""

    @staticmethod
    def to_numpy(model: Model) -> Model:
        """The model with NumPy arrays, which ``attach`` and the like work on."""

    @staticmethod
    def loss_and_grads(
        model: Model, inputs: Any, labels_N: Any, mask_NT: Any, keep: Mapping[str, Any] | None, types_NT: Any
    ) -> tuple[Any, dict[str, Any], Any]:
        """The mean cross-entropy of a batch, the gradient of every trained array, and the logits (N, V)."""

    @staticmethod
    def loss_and_logits(
        model: Model, inputs: Any, labels_N: Any, mask_NT: Any, types_NT: Any
    ) -> tuple[float, np.ndarray]:
        """The mean cross-entropy and the logits (N, V) as a NumPy array, in evaluation."""

    @staticmethod
    def hidden_states(model: Model, inputs: Any, mask_NT: Any, types_NT: Any, layer: int | None) -> Any:
        """What ``layer`` reads (N, T, D), in evaluation; None: what the last layer gives."""

    @staticmethod
    def delta_w(model: Model, name: str) -> Any:
        """dW = W' - W0 (I, O) of one adapted matrix."""
