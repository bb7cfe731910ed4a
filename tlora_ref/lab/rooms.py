"""A job's choice of room: NumPy by hand, or PyTorch and where it computes.

Models and data go in and come out as NumPy arrays in either room, so a job reads the same in both.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import partial

import numpy as np

from .. import by_hand, training
from ..allocate import allocate
from ..config import AdapterConfig, EncoderConfig, TrainConfig
from ..model import Model
from ..shapes import InputError
from ..training import History

Array = np.ndarray


class ByHand:
    """by_hand as it is."""

    name, device = "by_hand", "cpu"
    train = staticmethod(partial(training.train, by_hand))
    evaluate = staticmethod(partial(training.evaluate, by_hand))
    allocate = staticmethod(partial(allocate, by_hand))
    predict = staticmethod(partial(training.predict, by_hand))
    hidden_states = staticmethod(by_hand.hidden_states)

    def logits(self, model: Model, inputs: Array) -> Array:
        """(N, V)."""
        return by_hand.encoder_fwd(model, inputs)[0]


@dataclass(frozen=True)
class ByAutograd:
    """by_autograd on a device. Raises InputError for one that is not there."""

    device: str = "cpu"
    name = "by_autograd"

    def __post_init__(self) -> None:
        self.enter(Model(EncoderConfig(features=1), {}))

    def enter(self, model: Model) -> Model:
        """The model with tensors. Torch is held to one thread, as runs.one_thread holds BLAS."""
        import torch

        from ..by_autograd import to_torch

        torch.set_num_threads(1)
        return to_torch(model, self.device)

    def train(
        self,
        model: Model,
        inputs: Array,
        labels_N: Array,
        config: TrainConfig,
        mask_NT: Array | None = None,
        validation: tuple[Array, ...] | None = None,
    ) -> tuple[Model, History]:
        """The trained model and the history."""
        from .. import by_autograd

        after, history = training.train(by_autograd, self.enter(model), inputs, labels_N, config, mask_NT, validation)
        return by_autograd.to_numpy(after), history

    def allocate(self, model: Model, adapter: AdapterConfig, inputs: Array, labels_N: Array) -> AdapterConfig:
        """The adapter with the ranks that its allocation gives it."""
        from .. import by_autograd

        return allocate(by_autograd, self.enter(model), adapter, inputs, labels_N)

    def evaluate(
        self, model: Model, inputs: Array, labels_N: Array, mask_NT: Array | None = None, batch_size: int = 256
    ) -> tuple[float, float]:
        """(mean loss, accuracy)."""
        from .. import by_autograd

        return training.evaluate(by_autograd, self.enter(model), inputs, labels_N, mask_NT, batch_size=batch_size)

    def predict(self, model: Model, inputs: Array, mask_NT: Array | None = None, batch_size: int = 256) -> Array:
        """The likeliest class of every example (N,)."""
        from .. import by_autograd

        return training.predict(by_autograd, self.enter(model), inputs, mask_NT, batch_size=batch_size)

    def hidden_states(
        self, model: Model, inputs: Array, mask_NT: Array, types_NT: Array | None, layer: int | None
    ) -> Array:
        """What ``layer`` reads (N, T, D)."""
        from ..by_autograd import hidden_states

        return hidden_states(self.enter(model), inputs, mask_NT, types_NT, layer).cpu().numpy()

    def logits(self, model: Model, inputs: Array) -> Array:
        """(N, V)."""
        from ..by_autograd import encoder

        return encoder(self.enter(model), inputs).detach().cpu().numpy()

    def gradients(self, model: Model, inputs: Array, labels_N: Array, mask_NT: Array) -> dict[str, Array]:
        """The gradient of every trained array, to hold the ones by hand against."""
        from ..by_autograd import loss_and_grads

        _, grads, _ = loss_and_grads(self.enter(model), inputs, labels_N, mask_NT)
        return {name: g.cpu().numpy() for name, g in grads.items()}


Room = ByHand | ByAutograd


def add_room_arguments(parser: argparse.ArgumentParser) -> None:
    """``--room`` and ``--device``."""
    parser.add_argument(
        "--room", default="by_hand", choices=("by_hand", "by_autograd"), help="Which room trains. Default: by_hand."
    )
    parser.add_argument(
        "--device", default="cpu", help="Where by_autograd computes: cpu, cuda, cuda:1, ... Default: cpu."
    )


def chosen_room(args: argparse.Namespace) -> Room:
    """The room asked for. Raises InputError for a device that is not there, or that NumPy cannot use."""
    if args.room == "by_autograd":
        return ByAutograd(args.device)
    if args.device != "cpu":
        raise InputError(f"--device is {args.device!r}, expected cpu: by_hand is NumPy; add --room by_autograd")
    return ByHand()
