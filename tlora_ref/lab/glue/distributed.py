"""One process or many: who takes which examples, and how gradients, losses and predictions come together.

Equation    K processes, a batch of n examples, process k has the share S_k (perhaps empty):
            loss_k = K / n * sum over S_k of the examples' losses;  DistributedDataParallel averages gradients, so
            1/K sum_k dloss_k = d(1/n sum over the batch): the mean over the whole batch, however uneven the shares
Checked by  tests/test_glue.py: two processes against one; a process killed.

``torchrun`` starts the processes and tells each its place in the environment. They talk through gloo on CPUs and
NCCL on GPUs. What a step exchanges are the gradients of what trains and nothing else: the losses of the steps are
added up once an epoch. The base is the same in all processes and never sent after the start.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from inspect import signature

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ...shapes import InputError

TIMEOUT = timedelta(minutes=10)
"""How long a process waits for the others before it ends with an error. One that has died is noticed at once."""


@dataclass(frozen=True)
class Processes:
    """This process among all: its ``rank`` of ``count``, and where it computes."""

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """The one that writes and prints."""
        return self.rank == 0

    def share(self, indices: np.ndarray) -> np.ndarray:
        """Every ``count``-th index from ``rank`` on: shares differ by one at most, and may be empty."""
        return indices[self.rank :: self.count]

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model as the forward of training calls it."""
        if not dist.is_initialized():
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        # unless told not to, every forward would send all buffers too, A and C among them
        known = signature(DistributedDataParallel).parameters
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        return DistributedDataParallel(model, device_ids=devices, **{buffers: False})

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the processes, the same in all of them."""
        if dist.is_initialized():
            dist.all_reduce(tensor)
        return tensor

    def agree(self, number: int) -> None:
        """Raise InputError unless all processes hold the same number of finished epochs."""
        if not dist.is_initialized():
            return
        span = torch.tensor([number, -number], device=self.device)
        dist.all_reduce(span, dist.ReduceOp.MAX)
        most, least = span[0].item(), -span[1].item()
        if most != least:
            raise InputError(
                f"the processes read checkpoints of {least} and of {most} epochs, expected the same in all: "
                "several machines need one shared --out"
            )


@contextmanager
def processes(device: str | None) -> Iterator[Processes]:
    """This process, joined to the others if ``torchrun`` started it. ``device``: cpu, cuda, cuda:1; None: a GPU if
    there is one. Raises InputError for a device that is not there."""
    launched = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    local = int(os.environ.get("LOCAL_RANK", 0)) if launched else None
    where = _device(device, local)
    if not launched:
        yield Processes(where)
        return
    dist.init_process_group("nccl" if where.type == "cuda" else "gloo", timeout=TIMEOUT)
    # left as it is after an error: the others may be gone, and this process ends
    yield Processes(where, dist.get_rank(), dist.get_world_size())
    dist.destroy_process_group()


def _device(name: str | None, local: int | None) -> torch.device:
    """The device by name; under torchrun "cuda" is the GPU of this process's number on its machine."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise InputError(f"--device is {name!r}, expected cpu, cuda or cuda:NUMBER") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device is {name!r}, expected cpu, cuda or cuda:NUMBER")
    if device.type == "cpu":
        return torch.device("cpu")
    if local is not None and device.index is not None:
        raise InputError(f"--device is {name!r}, expected cuda: torchrun gives every process a GPU of its own")
    index = local if local is not None else device.index or 0
    if index >= torch.cuda.device_count():
        raise InputError(
            f"--device is {name or 'cuda'!r} number {index}, and there are {torch.cuda.device_count()} GPUs here"
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)
