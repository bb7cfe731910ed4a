"""TLoRA's frozen factors from a gradient, in any torch model: A and C along the singular vectors of dL/dW0.

Equation    D = dL/dW0 = x^T dy, summed over all rows of all batches, and D is never made: hooks on the layers give
                D V = x^T (dy V)    and    D^T U = dy^T (x U),
            which is all that a block power iteration asks for. From K = R + 8 random columns V, three times over,
                U = orth(D V),   V = orth(D^T U);    last,   U^T D = P S Q^T,   U_R = (U P)_R,   V_R = Q_R.
            Six passes over the batches for all layers together, K (I + O) numbers a layer in memory; two passes where
            K = min(I, O), for then the first ones are exact.
Source      N. Halko, P.-G. Martinsson and J. Tropp, SIAM Review 53, 2011, algorithm 4.4; why these: factors.py.
Twin        by_hand/gradient_factors.py, which makes each gradient and takes its full decomposition.
Checked by  tests/test_factors.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..by_hand.methods.tlora import tlora_start
from ..config import AdapterConfig
from ..draws import normal
from ..factors import singular_vectors, with_released_norms
from ..shapes import InputError
from .linear import adapter_dtype, site_of, weight_IO

OVERSAMPLING, POWER_STEPS = 8, 2

Loss = Callable[[nn.Module, Any], Tensor]


def gradient_arrays(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    config: AdapterConfig,
    batches: Iterable[Any],
    loss: Loss | None = None,
) -> dict[str, np.ndarray]:
    """The arrays of TLoRA adapters at their start, by full name. The model stays as it is.

    layers   the linear layers of the model, by the names that adapters on them have; one under two names counts once
    batches  what ``loss`` takes, a batch at a time; the gradient is that of the sum of their losses
    loss     (model, batch) -> a scalar; None: ``model(**batch).loss``, as models of transformers have it

    The model runs in evaluation mode. Raises InputError for no batch, for a loss that does not depend on a layer or is
    not finite, and for a layer on the meta device.
    """
    bases: dict[str, nn.Module] = {}
    for name, layer in layers.items():
        if weight_IO(layer).is_meta:
            raise InputError(f"{name} is on the meta device: it has a shape and no numbers, and so has its gradient")
        if layer not in bases.values():
            bases[name] = layer
    batches = list(batches)
    if not batches:
        raise InputError("batches is empty, expected at least one to take the gradient on")
    found: dict[str, np.ndarray] = {}
    for name, (U_IR, V_OR) in _singular(model, bases, config, batches, loss or _own_loss).items():
        arrays = tlora_start(*with_released_norms(U_IR, V_OR))
        found |= {f"{name}.{local}": array for local, array in arrays.items()}
    return found


def _own_loss(model: nn.Module, batch: Any) -> Tensor:
    return model(**batch).loss


def _singular(
    model: nn.Module, bases: Mapping[str, nn.Module], config: AdapterConfig, batches: Sequence[Any], loss: Loss
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """U_R (I, R) and V_R (O, R) of every layer's gradient by its name."""
    sites = {name: site_of(name, base, config) for name, base in bases.items()}
    columns = {name: min(site.R + OVERSAMPLING, site.I, site.O) for name, site in sites.items()}
    exact = all(columns[name] == min(site.I, site.O) for name, site in sites.items())
    V_OK = {
        name: torch.from_numpy(normal(config.seed, f"{name}.sketch", (site.O, columns[name]), 1.0)).to(
            weight_IO(bases[name]).device, adapter_dtype(weight_IO(bases[name]).dtype)
        )
        for name, site in sites.items()
    }
    U_IK: dict[str, Tensor] = {}
    for _ in range(1 if exact else 1 + POWER_STEPS):
        # U = orth(D V),   D V = x^T (dy V)
        U_IK = _orth(_pass(model, bases, batches, loss, lambda name, x, dy, V=V_OK: x.T @ (dy @ V[name])))
        # D^T U = dy^T (x U)
        Z_OK = _pass(model, bases, batches, loss, lambda name, x, dy, U=U_IK: dy.T @ (x @ U[name]))
        V_OK = _orth(Z_OK)
    found = {}
    for name, site in sites.items():
        # U^T D = P S Q^T
        P_KR, _, Qt_RO = singular_vectors(Z_OK[name].T.cpu().numpy(), site.R)
        found[name] = (U_IK[name].cpu().double().numpy() @ P_KR, Qt_RO.T)
    return found


def _orth(sketches: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for name, sketch in sketches.items():
        if not sketch.isfinite().all() or not sketch.any():
            what = "zero" if sketch.isfinite().all() else "not finite"
            raise InputError(f"the gradient of {name} is {what}, expected a loss that depends on it")
    return {name: torch.linalg.qr(sketch)[0] for name, sketch in sketches.items()}


def _pass(
    model: nn.Module,
    bases: Mapping[str, nn.Module],
    batches: Sequence[Any],
    loss: Loss,
    product: Callable[[str, Tensor, Tensor], Tensor],
) -> dict[str, Tensor]:
    """The sum over all batches of product(name, x (N, I), dy (N, O)), for every layer."""
    total: dict[str, Any] = dict.fromkeys(bases, 0.0)

    def rows(tensor: Tensor, like: Tensor) -> Tensor:
        return tensor.detach().reshape(-1, tensor.shape[-1]).to(adapter_dtype(like.dtype))

    def hook_of(name: str) -> Callable[..., Tensor]:
        def hook(base: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor) -> Tensor:
            x, like = next(iter((*args, *kwargs.values()))), weight_IO(base)

            def add(dy: Tensor) -> None:
                total[name] = total[name] + product(name, rows(x, like), rows(dy, like))

            if not y.requires_grad:  # nothing below it trains: the graph starts here
                y = y + torch.zeros((), dtype=y.dtype, device=y.device, requires_grad=True)
            y.register_hook(add)
            return y

        return hook

    with _frozen_evaluation(model), torch.enable_grad():
        hooks = [base.register_forward_hook(hook_of(name), with_kwargs=True) for name, base in bases.items()]
        try:
            for batch in batches:
                value = loss(model, batch)
                if not value.requires_grad:
                    raise InputError("the loss depends on none of the targets, expected one to take the gradient of")
                value.backward()
        finally:
            for handle in hooks:
                handle.remove()
    return {name: torch.as_tensor(sketch) for name, sketch in total.items()}


@contextmanager
def _frozen_evaluation(model: nn.Module) -> Iterator[None]:
    """Inside, no parameter has a gradient and no module is in training mode."""
    training = {module: module.training for module in model.modules()}
    trained = [p for p in model.parameters() if p.requires_grad]
    model.eval()
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        for module, was in training.items():
            module.training = was
