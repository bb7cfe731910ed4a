"""A post-LayerNorm transformer encoder in PyTorch, the ops composed; the backward is autograd's.

Equation    e = LN(embed(input) + position + type)
            per layer:  h = LN(x + output(attention(query(x), key(x), value(x))))
                        y = LN(h + ffn_out(gelu(ffn_in(h))))
            logits = head(pool(y)), or head(tanh(pooler(pool(y))))    (BERT, arXiv 1810.04805, without dropout)
Twin        by_hand/encoder.py.
Checked by  tests/test_twin.py: logits, loss and every gradient equal to the ones by hand.

The model is the same ``Model`` with tensors for arrays: ``to_torch`` and ``to_numpy`` are the only door between
the rooms. What trains is what ``model.trained`` names; ``leaves`` sets every requires_grad by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..model import Model, adapter_arguments, check_inputs, check_layer, padded_positions
from ..shapes import InputError, check_ids
from .methods import TWINS
from .ops import (
    attention,
    cross_entropy,
    embedding,
    first_token,
    frozen_linear,
    gelu,
    layer_norm,
    linear,
    mean_pool,
    tanh,
)

Keep = Mapping[str, Any]
"""Dropout masks by matrix name, each already divided by (1 - p)."""


# --- the door between the rooms ------------------------------------------------------------------


def find_device(device: str | torch.device) -> torch.device:
    """The device, once something has been computed there. Raises InputError if it is not on this machine."""
    try:
        torch.zeros((), device=device).item()
        return torch.device(device)
    except (RuntimeError, AssertionError):
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise InputError(f"device is {str(device)!r}, expected one of this machine's: {', '.join(there)}") from None


def to_tensor(array: Any, like: Tensor) -> Tensor:
    """A tensor on the device of ``like``: real numbers in its dtype, integers as int64, booleans as they are.
    NumPy arrays are copied."""
    if isinstance(array, np.ndarray):
        # NumPy's unsigned integers are not all torch's, and neither are negative strides
        whole = np.issubdtype(array.dtype, np.integer)
        array = torch.from_numpy(array.astype(np.int64 if whole else array.dtype, order="C"))
    dtype = like.dtype if array.is_floating_point() else torch.bool if array.dtype == torch.bool else torch.int64
    return array.to(like.device, dtype)


def leaves(model: Model) -> Model:
    """The same tensors, in the same memory, of which exactly the trained ones require a gradient."""
    return model.with_params({n: p.detach().requires_grad_(n in model.trained) for n, p in model.params.items()})


def to_torch(model: Model, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> Model:
    """The model with its NumPy arrays copied into tensors; ``dtype`` None keeps theirs. Raises InputError for a
    device that is not there."""
    like = torch.empty((), device=find_device(device), dtype=dtype)

    def tensor(array: np.ndarray) -> Tensor:
        t = torch.from_numpy(np.array(array))
        return t.to(like.device, dtype or t.dtype)

    params, merged = ({name: tensor(a) for name, a in arrays.items()} for arrays in (model.params, model.merged))
    return leaves(replace(model, params=params, merged=merged))


def to_numpy(model: Model) -> Model:
    """The model with its tensors copied into NumPy arrays; bfloat16, which NumPy lacks, becomes float32."""

    def array(t: Tensor) -> np.ndarray:
        t = t.detach().float() if t.dtype == torch.bfloat16 else t.detach()
        return t.cpu().numpy().copy()

    params, merged = ({name: array(t) for name, t in tensors.items()} for tensors in (model.params, model.merged))
    return replace(model, params=params, merged=merged)


# --- one matrix: adapted, trained or frozen ------------------------------------------------------


def arguments_of(model: Model, name: str) -> dict[str, Any]:
    """The adapter's tensors and constants for one matrix, by the twin's names."""
    return adapter_arguments(model, name, TWINS[model.method.name].view)


def project(model: Model, name: str, x_NTI: Tensor, keep: Keep) -> Tensor:
    """x W + b through the op that this matrix needs."""
    W_IO, b_O = model.params[f"{name}.W"], model.params[f"{name}.b"]
    if name in model.adapted:
        twin, arguments = TWINS[model.method.name], arguments_of(model, name)
        if twin.constants_of is not None:
            arguments |= twin.constants_of(W_IO, **arguments)
        if name in keep:
            arguments[model.method.keep] = keep[name]
        return twin.linear(x_NTI, W_IO, b_O, **arguments)
    return (linear if model.trained_in(name) else frozen_linear)(x_NTI, W_IO, b_O)


def norm(model: Model, name: str, x_NTD: Tensor) -> Tensor:
    """LayerNorm with this module's gamma and beta."""
    return layer_norm(x_NTD, model.params[f"{name}.gamma"], model.params[f"{name}.beta"], model.config.eps)


def block(model: Model, name: str, z_NTD: Tensor, skip_NTD: Tensor) -> Tensor:
    """skip + f(z) with the bottleneck adapter of that name; skip where there is none."""
    if name not in model.adapted:
        return skip_NTD
    return skip_NTD + TWINS[model.method.name].linear(z_NTD, **arguments_of(model, name))


# --- one layer -----------------------------------------------------------------------------------


def layer(model: Model, at: str, x_NTD: Tensor, mask_NT: Tensor | None, keep: Keep) -> Tensor:
    """One encoder layer, ``at`` = "layers.0".  x (N, T, D) -> y (N, T, D)."""
    # a = output(attention(query(x), key(x), value(x)))
    q_NTD, k_NTD, v_NTD = (project(model, f"{at}.{m}", x_NTD, keep) for m in ("query", "key", "value"))
    o_NTD = attention(q_NTD, k_NTD, v_NTD, model.config.heads, mask_NT, model.config.causal)
    a_NTD = project(model, f"{at}.output", o_NTD, keep)
    # h = LN(x + a),   a + f(a) for a where an adapter sits there
    a_NTD = block(model, f"{at}.attn_block", a_NTD, skip_NTD=a_NTD)
    h_NTD = norm(model, f"{at}.attn_norm", x_NTD + a_NTD)
    # m = ffn_out(gelu(ffn_in(h)))
    f_NTF = project(model, f"{at}.ffn_in", h_NTD, keep)
    m_NTD = project(model, f"{at}.ffn_out", gelu(f_NTF), keep)
    # y = LN(s),   s = h + m,   m + f(m) for m where an adapter sits there
    s_NTD = h_NTD + block(model, f"{at}.ffn_block", m_NTD, skip_NTD=m_NTD)
    y_NTD = norm(model, f"{at}.ffn_norm", s_NTD)
    if f"{at}.norm_block" not in model.adapted:
        return y_NTD
    # y = LN(s + f(LN(s))) where an adapter sits behind the norm
    return norm(model, f"{at}.ffn_norm", block(model, f"{at}.norm_block", y_NTD, skip_NTD=s_NTD))


# --- the whole encoder ---------------------------------------------------------------------------


def embed(model: Model, inputs: Tensor, types_NT: Tensor | None) -> Tensor:
    """What layer 0 reads (N, T, D), of token ids (N, T) or continuous tokens (N, T, I)."""
    config, p = model.config, model.params
    # e = LN(embed(input) + position + type)
    e_NTD = embedding(inputs, p["embed.W"]) if config.vocab else linear(inputs, p["embed.W"], p["embed.b"])
    if config.pad_id is None:
        e_NTD = e_NTD + p["position.W"][: inputs.shape[1]]
    else:
        e_NTD = e_NTD + embedding(padded_positions(inputs, config.pad_id), p["position.W"])
    if config.types:
        types_NT = inputs.new_zeros(inputs.shape[:2], dtype=torch.int64) if types_NT is None else types_NT
        e_NTD = e_NTD + embedding(types_NT, p["type.W"])
    return norm(model, "embed_norm", e_NTD)


@torch.no_grad()
def hidden_states(
    model: Model, inputs: Any, mask_NT: Any | None = None, types_NT: Any | None = None, layer: int | None = None
) -> Tensor:
    """What ``layer`` reads (N, T, D), without dropout; None: what the last layer gives. Raises InputError."""
    check_inputs(model, inputs, mask_NT, types_NT)
    if layer is not None:
        check_layer(model.config, layer)
    inputs, mask_NT, types_NT = (_moved(a, model) for a in (inputs, mask_NT, types_NT))
    return _layers(model, inputs, mask_NT, types_NT, {}, layer)


def _moved(array: Any | None, model: Model) -> Tensor | None:
    return None if array is None else to_tensor(array, model.params["head.W"])


def _layers(
    model: Model, inputs: Tensor, mask_NT: Tensor | None, types_NT: Tensor | None, keep: Keep, top: int | None = None
) -> Tensor:
    """The hidden states (N, T, D) below layer ``top``, None: behind the last."""
    x_NTD = inputs if model.config.first else embed(model, inputs, types_NT)
    for number in range(model.config.first, model.config.layers if top is None else top):
        x_NTD = layer(model, f"layers.{number}", x_NTD, mask_NT, keep)
    return x_NTD


def encoder(
    model: Model,
    inputs: Any,
    mask_NT: Any | None = None,
    keep: Keep | None = None,
    types_NT: Any | None = None,
) -> Tensor:
    """Logits (N, V).  inputs: token ids (N, T), or continuous tokens (N, T, I), or the hidden states (N, T, D) that
    the lowest layer held reads; mask (N, T), True where a token is real; keep: dropout masks by matrix name, None
    for evaluation; token types (N, T), None: all zero. NumPy arrays, or tensors on any device: they are moved to
    the model's. Raises InputError, ShapeError."""
    check_inputs(model, inputs, mask_NT, types_NT)
    inputs, mask_NT, types_NT = (_moved(a, model) for a in (inputs, mask_NT, types_NT))
    keep = {name: _moved(mask, model) for name, mask in (keep or {}).items()}
    x_NTD = _layers(model, inputs, mask_NT, types_NT, keep)
    # z = pool(x), or tanh(pooler(pool(x)));   logits = head(z)
    z_ND = mean_pool(x_NTD, mask_NT) if model.config.pool == "mean" else first_token(x_NTD)
    if model.config.pooler:
        z_ND = tanh(project(model, "pooler", z_ND, keep))
    return project(model, "head", z_ND, keep)


def _loss(logits_NV: Tensor, labels_N: Any) -> Tensor:
    """The mean cross-entropy. NumPy's labels are looked at before they are on a device, where nothing looks at them."""
    check_ids("cross_entropy: labels_N", labels_N, logits_NV.shape[-1])
    return cross_entropy(logits_NV, to_tensor(labels_N, logits_NV))


def loss_and_grads(
    model: Model,
    inputs: Any,
    labels_N: Any,
    mask_NT: Any | None = None,
    keep: Keep | None = None,
    types_NT: Any | None = None,
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """The mean cross-entropy of a batch, the gradient of every trained array, and the logits (N, V).

    Raises InputError for a trained array that the loss does not depend on, such as a merged adapter's.
    """
    model = leaves(model)
    logits_NV = encoder(model, inputs, mask_NT, keep, types_NT)
    loss = _loss(logits_NV, labels_N)
    trained = {name: model.params[name] for name in sorted(model.trained)}
    found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True) if loss.requires_grad else ()
    grads = {name: g for name, g in zip(trained, found, strict=False) if g is not None}
    without = sorted(set(trained) - set(grads))
    if without:
        raise InputError(f"no gradient with respect to {', '.join(without)}: the loss does not depend on it")
    return loss.detach(), grads, logits_NV.detach()


@torch.no_grad()
def loss_and_logits(
    model: Model,
    inputs: Any,
    labels_N: Any,
    mask_NT: Any | None = None,
    types_NT: Any | None = None,
) -> tuple[float, np.ndarray]:
    """The mean cross-entropy of a batch and its logits (N, V) as a NumPy array, without dropout."""
    logits_NV = encoder(model, inputs, mask_NT, types_NT=types_NT)
    loss = _loss(logits_NV, labels_N)
    return loss.item(), logits_NV.float().cpu().numpy()


@torch.no_grad()
def delta_w(model: Model, name: str) -> Tensor:
    """dW = W' - W0 (I, O) of one adapted matrix, as evaluation sees it. Raises InputError if its method has none."""
    delta = TWINS[model.method.name].delta_w
    if delta is None:
        raise InputError(f"{model.method.name} has no dW: no weight W0 + dW does what it does")
    return delta(model.merged.get(name, model.params[f"{name}.W"]), **arguments_of(model, name))


def own(model: Model, like: Model | None = None) -> Model:
    """The model with copies of the tensors that train, which torch's optimizers change in place. NumPy arrays in it
    become tensors as those of ``like`` are."""
    if like is not None:
        beside = like.params["head.W"]
        arrays = {name: to_tensor(p, beside) for name, p in model.params.items() if isinstance(p, np.ndarray)}
        model = model.with_params(arrays)
    return leaves(model.with_params({name: model.params[name].detach().clone() for name in model.trained}))
