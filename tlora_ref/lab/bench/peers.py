"""The encoder's step in two other libraries that differentiate NumPy code: HIPS autograd and JAX.

Equation    loss and gradients of what trains, as by_hand.loss_and_grads has them, of a model with TLoRA that reads
            continuous tokens, without masks; from the same arrays. One forward is written for both libraries, all
            tokens as rows.
Checked by  tests/test_bench.py: loss and gradients equal to those by hand, in float32 and float64; JAX computes on the
            thread that calls it

A library that is not installed is left out (the extra ``bench`` has both).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from math import sqrt
from typing import Any

import numpy as np

from ...config import EncoderConfig
from ...model import Model

HIPS, JAX, JIT = "HIPS autograd", "JAX, op by op", "JAX, jit"

Step = Callable[[], tuple[Any, Mapping[str, Any]]]
"""A call returns the loss and the gradient of every trained array by name."""


def encoder_loss(
    np: Any, erf: Callable[[Any], Any], config: EncoderConfig, p: Mapping[str, Any], x: Any, y: Any
) -> Any:
    """The mean cross-entropy of tokens x (N, T, I) and labels y (N,). ``np`` is the library's NumPy, ``erf`` its error
    function, p every array by name."""
    (N, T, I), D, H = x.shape, config.width, config.heads

    def linear(at: str, x_NI: Any) -> Any:
        y_NO = x_NI @ p[f"{at}.W"] + p[f"{at}.b"]
        if f"{at}.B" not in p:
            return y_NO
        return y_NO + (p[f"{at}.alpha"] * (x_NI @ p[f"{at}.A"] @ p[f"{at}.B"])) @ p[f"{at}.C"]

    def norm(at: str, x_ND: Any) -> Any:
        centred_ND = x_ND - np.mean(x_ND, axis=-1, keepdims=True)
        var_N1 = np.mean(centred_ND * centred_ND, axis=-1, keepdims=True)
        return p[f"{at}.gamma"] * (centred_ND / np.sqrt(var_N1 + config.eps)) + p[f"{at}.beta"]

    def heads(at: str, x_ND: Any) -> Any:
        return np.swapaxes(np.reshape(linear(at, x_ND), (N, T, H, D // H)), 1, 2)

    def attention(at: str, x_ND: Any) -> Any:
        q_NHTK, k_NHTK, v_NHTK = (heads(f"{at}.{name}", x_ND) for name in ("query", "key", "value"))
        s_NHTT = (q_NHTK @ np.swapaxes(k_NHTK, -1, -2)) * (1 / sqrt(D // H))
        e_NHTT = np.exp(s_NHTT - np.max(s_NHTT, axis=-1, keepdims=True))
        o_NHTK = (e_NHTT / np.sum(e_NHTT, axis=-1, keepdims=True)) @ v_NHTK
        return linear(f"{at}.output", np.reshape(np.swapaxes(o_NHTK, 1, 2), (N * T, D)))

    e_NTD = np.reshape(linear("embed", np.reshape(x, (N * T, I))), (N, T, D)) + p["position.W"][:T]
    x_ND = norm("embed_norm", np.reshape(e_NTD, (N * T, D)))
    for layer in range(config.layers):
        at = f"layers.{layer}"
        h_ND = norm(f"{at}.attn_norm", x_ND + attention(at, x_ND))
        f_NF = linear(f"{at}.ffn_in", h_ND)
        g_NF = f_NF * (0.5 * (1 + erf(f_NF * (1 / sqrt(2)))))
        x_ND = norm(f"{at}.ffn_norm", h_ND + linear(f"{at}.ffn_out", g_NF))
    logits_NV = linear("head", np.mean(np.reshape(x_ND, (N, T, D)), axis=1))
    z_NV = logits_NV - np.max(logits_NV, axis=-1, keepdims=True)
    return np.mean(np.log(np.sum(np.exp(z_NV), axis=-1)) - z_NV[np.arange(N), y])


def _split(model: Model) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The arrays that train, and the frozen ones."""
    trained = {name: model.params[name] for name in sorted(model.trained)}
    return trained, {name: p for name, p in model.params.items() if name not in trained}


def hips_step(model: Model, x: np.ndarray, y: np.ndarray) -> Step:
    """The step in HIPS autograd, which records NumPy's calls while they run."""
    import autograd.numpy as anp
    from autograd import value_and_grad
    from autograd.scipy.special import erf

    trained, frozen = _split(model)
    step = value_and_grad(lambda arrays: encoder_loss(anp, erf, model.config, {**frozen, **arrays}, x, y))
    return lambda: step(trained)


def jax_steps(model: Model, x: np.ndarray, y: np.ndarray) -> dict[str, Step]:
    """The step in JAX, every operation dispatched as it is reached, and compiled whole."""
    jax = jax_on_one_thread()
    erf = jax.scipy.special.erf
    trained, frozen, tokens, labels = jax.device_put((*_split(model), x, y))

    def loss(arrays: Any, rest: Any, tokens: Any, labels: Any) -> Any:
        return encoder_loss(jax.numpy, erf, model.config, {**rest, **arrays}, tokens, labels)

    step = jax.value_and_grad(loss)
    return {
        name: lambda call=call: jax.block_until_ready(call(trained, frozen, tokens, labels))
        for name, call in ((JAX, step), (JIT, jax.jit(step)))
    }


def jax_on_one_thread() -> Any:
    """The module jax, which computes on the CPU and on the thread that calls it, if it has computed nothing before.

    --xla_cpu_multi_thread_eigen=false and intra_op_parallelism_threads=1 in XLA_FLAGS do not do that: an array's
    elementwise operations still run in pieces on a pool of threads. The pool is as large as PJRT_NPROC says when the
    device is made, and without asynchronous dispatch the calling thread computes itself.
    """
    before = os.environ.get("PJRT_NPROC")
    os.environ["PJRT_NPROC"] = "1"
    try:
        import jax

        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_cpu_enable_async_dispatch", False)
        jax.devices()
    finally:
        if before is None:
            del os.environ["PJRT_NPROC"]
        else:
            os.environ["PJRT_NPROC"] = before
    return jax


def installed_steps(model: Model, x: np.ndarray, y: np.ndarray) -> dict[str, Step]:
    """The steps of the libraries that are installed, by name."""
    found = {HIPS: hips_step(model, x, y)} if find_spec("autograd") else {}
    return found | (jax_steps(model, x, y) if find_spec("jax") else {})
