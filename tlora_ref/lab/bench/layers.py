"""One adapted layer in torch, forward and backward with dx: TLoRA here, and the peers that are installed.

Equation    the floor is the frozen nn.Linear alone, y = x W0 + b and dx = dy W0^T
Checked by  tests/test_bench.py

Every contestant sits on its own copy of the same layer, its update away from zero. In bfloat16 the layer and x are
bfloat16, the adapters as their libraries make them (float32), under autocast: how such models are trained.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...by_autograd.linear import TLoRALinear
from ...config import AdapterConfig
from ...counts import activations, backward_flops, forward_flops, textbook_activations
from ...shapes import dtype_name
from .candidates import CANDIDATES, Candidate
from .memory import kept_bytes
from .timing import interleaved

SIZES = ((64, 1024, 8), (768, 2048, 32), (1024, 4096, 32), (4096, 2048, 32))
"""(d, N, r): width, rows, rank."""

DTYPES = (torch.float32, torch.bfloat16)
OURS, FLOOR = "TLoRA", "frozen layer"


def sizes(dtype: str, quick: bool) -> tuple[tuple[int, int, int], ...]:
    """The sizes at which a dtype is measured. Without AVX-512 PyTorch multiplies bfloat16 in plain loops, and a step of
    the widest layer takes a minute: there one size is measured, for what it rounds away and not for its time."""
    if dtype == "bfloat16" and torch.backends.cpu.get_cpu_capability() != "AVX512":
        return SIZES[:1] if quick else SIZES[1:2]
    return SIZES[:2] if quick else SIZES


def contestants(width: int, rank: int, dtype: torch.dtype) -> dict[str, nn.Module]:
    """The floor, ours and the peers, the floor first. Peers that are not installed are left out."""
    torch.manual_seed(0)
    base = nn.Linear(width, width, dtype=dtype).requires_grad_(False)
    ours = TLoRALinear(copy.deepcopy(base), AdapterConfig(rank=rank), "layer")
    nn.init.normal_(ours.B, std=0.01)
    found = {FLOOR: base, OURS: ours} | {f"{OURS}, {name}": kind(ours) for name, kind in CANDIDATES.items()}
    found |= _peft(base, rank) | _loralib(base, rank)
    for name, layer in found.items():
        if name != FLOOR:
            for parameter in layer.parameters():
                if parameter.requires_grad and not parameter.any():
                    nn.init.normal_(parameter, std=0.01)
    return found


def _peft(base: nn.Module, rank: int) -> dict[str, nn.Module]:
    try:
        import peft
    except ModuleNotFoundError:
        return {}
    lora = {"target_modules": ["0"], "r": rank, "lora_alpha": rank}
    configs = {
        "LoRA, PEFT": peft.LoraConfig(**lora),
        "DoRA, PEFT": peft.LoraConfig(**lora, use_dora=True),
        "VeRA, PEFT": peft.VeraConfig(target_modules=["0"], r=rank),
    }
    return {
        name: peft.get_peft_model(nn.Sequential(copy.deepcopy(base)), config).base_model.model[0]
        for name, config in configs.items()
    }


def _loralib(base: nn.Linear, rank: int) -> dict[str, nn.Module]:
    try:
        import loralib
    except ModuleNotFoundError:
        return {}
    layer = loralib.Linear(base.in_features, base.out_features, r=rank, lora_alpha=rank)
    layer.weight.data, layer.bias.data = base.weight.data.clone(), base.bias.data.clone()
    layer.bias.requires_grad_(False)
    return {"LoRA, loralib": layer}


def step(layer: nn.Module, x: Tensor, dy: Tensor) -> Callable[[], None]:
    """Forward and backward of one layer, with dx."""

    def call() -> None:
        x.grad = None
        with torch.autocast(x.device.type, torch.bfloat16, enabled=x.dtype == torch.bfloat16):
            y = layer(x)
        y.backward(dy)

    return call


def measure(width: int, rows: int, rank: int, dtype: torch.dtype, seconds: float) -> list[dict[str, Any]]:
    """One row per contestant: its time over the floor's, the bytes it keeps, the FLOPs over the floor's by formula."""
    layers = contestants(width, rank, dtype)
    x = torch.randn(8, rows // 8, width).to(dtype).requires_grad_()
    dy = torch.randn(8, rows // 8, width).to(dtype)
    calls = {name: step(layer, x, dy) for name, layer in layers.items()}
    # on one thread; what others take of its core does not count
    times = interleaved(calls, FLOOR, seconds, clock=time.process_time)
    lines = []
    for name, layer in layers.items():
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            kept = kept_bytes(lambda layer=layer: layer(x), [*layer.parameters(), *layer.buffers()])
        lines.append({"width": width, "rows": rows, "rank": rank, "dtype": dtype_name(x), "layer": name,
                      **times[name].summary(), "kept_bytes": kept,
                      "closed_form_bytes": _closed_form(name, width, rows, rank, dtype),
                      "update_share": update_share(layer, layers[FLOOR], x),
                      "flops_over_floor": _flops(name, width, rows, rank)})  # fmt: skip
    return lines


@torch.no_grad()
def update_share(layer: nn.Module, floor: nn.Module, x: Tensor) -> float | None:
    """How much of a small update is left in a TLoRA layer's output: <y - y0, u> / <u, u> for the exact update u of a B
    with entries of 1e-4 (||dW|| / ||W0|| about 3e-4), y0 the frozen layer's output. 1 where nothing is rounded away."""
    if not isinstance(layer, (TLoRALinear, Candidate)):
        return None
    before = layer.B.clone()
    layer.B.normal_(std=1e-4, generator=torch.Generator(layer.B.device).manual_seed(0))
    exact = x.double() @ (layer.alpha * layer.A.double() @ layer.B.double() @ layer.C.double())
    with torch.autocast(x.device.type, torch.bfloat16, enabled=x.dtype == torch.bfloat16):
        found = layer(x).double() - floor(x).double()
    layer.B.copy_(before)
    return ((found * exact).sum() / (exact * exact).sum()).item()


def _closed_form(name: str, width: int, rows: int, rank: int, dtype: torch.dtype) -> int | None:
    """What counts.py says is kept. Under autocast the casts of weights are kept as well, which it does not count."""
    if dtype != torch.float32:
        return None
    ours = 4 * activations("tlora", rows, width, width, rank)
    textbook = 4 * textbook_activations(rows, width, rank)
    same = dict.fromkeys((OURS, f"{OURS}, torch's operations", f"{OURS}, addmm", f"{OURS}, merged weight"), ours)
    return ({FLOOR: 0, f"{OURS}, textbook order": textbook} | same).get(name)


def _flops(name: str, width: int, rows: int, rank: int) -> float | None:
    method = "tlora" if name.startswith("TLoRA") else "lora" if name.startswith("LoRA") else None
    if method is None:
        return None
    size = (rows, width, width, rank)
    return (forward_flops(method, *size) + backward_flops(method, *size)) / (4 * rows * width * width)


SWEEPS = {
    "rows": [(768, rows, 32) for rows in (64, 256, 1024, 4096)],
    "width": [(width, 1024, 32) for width in (64, 256, 768, 1536)],
    "rank": [(768, 1024, rank) for rank in (2, 8, 32, 128)],
}
"""How the overhead grows with one of N, d and r: (d, N, r)."""

SWEPT = (OURS, "LoRA, PEFT")
"""The contestants of the sweeps."""
