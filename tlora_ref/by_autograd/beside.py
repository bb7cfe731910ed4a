"""What trains beside the adapters of a torch model, such as a new head: its parameters and buffers, and what they were.

Twin        none: a Model's ``trained`` names what trains beside its adapter.
Checked by  tests/test_inject.py.

An adapter file holds these arrays as well. ``disable`` and ``remove`` give the base's outputs, so they put back what
the arrays were when the adapter came. Buffers belong to it where their module was named: the statistics of a BatchNorm
move while it trains.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class Beside:
    """The names of what trains beside the adapters, and a copy of what each array was before. Every adapted layer of a
    model holds the same one."""

    before: dict[str, Tensor]

    @classmethod
    def of(cls, model: nn.Module, names: Sequence[str]) -> Beside:
        """Of parameters and buffers of the model, by their full names."""
        tensors = named_tensors(model)
        return cls({name: tensors[name].detach().clone() for name in names})

    @torch.no_grad()
    def put_back(self, model: nn.Module) -> None:
        """Every array as it was before the adapter came."""
        tensors = named_tensors(model)
        for name, array in self.before.items():
            if name in tensors:
                tensors[name].copy_(array)

    @contextmanager
    def away(self, model: nn.Module) -> Iterator[None]:
        """Inside, every array is what it was before the adapter came; afterwards it is what it was trained to be."""
        trained = Beside.of(model, [name for name in self.before if name in named_tensors(model)])
        self.put_back(model)
        try:
            yield
        finally:
            trained.put_back(model)


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of a model by their full names; a tied one has several."""
    return dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))


def buffers_beneath(model: nn.Module, modules: Sequence[str]) -> list[str]:
    """The full names of the buffers that a state_dict has beneath these modules."""
    stored = model.state_dict(keep_vars=True)
    beneath = [
        name
        for name, _ in model.named_buffers(remove_duplicate=False)
        if any(name.startswith(f"{module}.") for module in modules)
    ]
    return [name for name in beneath if name in stored]
