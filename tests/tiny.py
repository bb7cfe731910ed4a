"""Small torch models to put adapters into, and adapters away from their starting point."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from tlora_ref import EncoderConfig
from tlora_ref.by_autograd.inject import adapted
from tlora_ref.by_hand.methods import METHODS

ON_MATRICES = [name for name, method in METHODS.items() if method.on_matrices]
"""The methods that sit on linear layers."""

ENCODER = EncoderConfig(width=8, layers=2, heads=2, hidden=12, time=5, features=6, classes=3)


class Conv1D(nn.Module):
    """A layer like transformers' of that name: weight (in, out), and nf."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.randn(nf))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight + self.bias


class Block(nn.Module):
    """x (..., 7) -> (..., 7) through linear layers of pairwise different sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.value = nn.Linear(7, 5), nn.Linear(5, 9, bias=False)
        self.mix, self.norm = Conv1D(7, 9), nn.LayerNorm(7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x + self.mix(torch.tanh(self.value(torch.tanh(self.query(x))))))


class Net(nn.Module):
    """Two blocks and a classifier of two parts."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.classifier = nn.Sequential(nn.Linear(7, 6), nn.Linear(6, 3))
        self.config = SimpleNamespace(num_attention_heads=1)  # as a model of transformers says it

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.classifier(x)


def net(seed: int = 0, dtype: torch.dtype = torch.float32) -> Net:
    """A Net in evaluation mode."""
    return Net(seed).to(dtype).eval()


@torch.no_grad()
def scramble(model: nn.Module, seed: int = 1, scale: float = 0.7) -> nn.Module:
    """What the adapters train, as after training: B = 0 and alpha = 1 hide every mistake."""
    rng = np.random.default_rng(seed)
    for layer in adapted(model):
        for arg in METHODS[layer.adapter.method].trained_args:
            array = layer.array(arg.base)
            if arg.base == "alpha":
                array.copy_(torch.tensor(rng.choice([1.7, -0.6, 0.8])))
            elif arg.kind == "positive":
                array.mul_(torch.from_numpy(0.6 + 0.8 * rng.random(array.shape)))
            else:
                array.copy_(torch.from_numpy(np.asarray(scale * rng.standard_normal(array.shape))))
    return model


def inputs(seed: int = 2, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """x (4, 3, 7)."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((4, 3, 7))).to(dtype)


def bits(model: nn.Module) -> dict[str, bytes]:
    """Every tensor of a state_dict as bytes."""
    return {
        n: t.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        for n, t in model.state_dict().items()
    }
