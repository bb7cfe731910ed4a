"""A post-LayerNorm transformer encoder, the ops composed; the backward is the forward read upwards.

Equation    e = LN(embed(input) + position + type)
            per layer:  h = LN(x + output(attention(query(x), key(x), value(x))))
                        y = LN(h + ffn_out(gelu(ffn_in(h))))    (Houlsby's and Pfeiffer's adapters add f(.) here)
            logits = head(pool(y)), or head(tanh(pooler(pool(y))))    (BERT, arXiv 1810.04805, without dropout)
Twin        by_autograd/encoder.py.
Checked by  tests/test_encoder.py: every gradient against the complex step and central differences;
            tests/test_pretrained.py: published models' architectures, against Hugging Face transformers.

Gradients are computed for what trains and for nothing else: a frozen matrix keeps no input, a gradient goes
on downwards only while something below it trains, and layers under the lowest trained one keep no cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..model import Model, adapter_arguments, check_inputs, check_layer, mergeable, padded_positions, with_merged
from ..registry import METHODS, OPS
from .ops import (
    Array,
    Grads,
    attention_bwd,
    attention_fwd,
    cross_entropy_bwd,
    cross_entropy_fwd,
    embedding_bwd,
    embedding_fwd,
    first_token_bwd,
    first_token_fwd,
    frozen_linear_bwd,
    frozen_linear_fwd,
    gelu_bwd,
    gelu_fwd,
    layer_norm_bwd,
    layer_norm_fwd,
    linear_bwd,
    linear_fwd,
    mean_pool_bwd,
    mean_pool_fwd,
    rows,
    tanh_bwd,
    tanh_fwd,
)

Keep = Mapping[str, Array]
"""Dropout masks by matrix name, each already divided by (1 - p)."""


# --- one matrix: adapted, trained or frozen ------------------------------------------------------


def project_fwd(model: Model, name: str, x_NTI: Array, keep: Keep) -> tuple[Array, Any]:
    """x W + b through the kernel that this matrix needs, all tokens as rows: one large product is several times
    faster than one small one per sequence."""
    W_IO, b_O, x_NI = model.params[f"{name}.W"], model.params[f"{name}.b"], rows(x_NTI)
    if name in model.adapted:
        method, arguments = METHODS[model.adapter.method], adapter_arguments(model, name)
        if method.norm:
            arguments["norm_O"] = method.column_norm(W_IO, **arguments)
        if name in keep:
            arguments[method.keep] = rows(keep[name])
        y_NO, cache = OPS[method.op].fwd(x_NI, W_IO, b_O, **arguments)
    else:
        y_NO, cache = (linear_fwd if model.trained_in(name) else frozen_linear_fwd)(x_NI, W_IO, b_O)
    return y_NO.reshape(*x_NTI.shape[:-1], -1), cache


def project_bwd(model: Model, name: str, dy_NTO: Array, cache: Any, grads: Grads, below: bool) -> Array | None:
    """Put the trained gradients of this matrix into ``grads``; return dx when something ``below`` needs it."""
    if name in model.adapted:
        bwd = OPS[METHODS[model.adapter.method].op].bwd
    else:
        bwd = linear_bwd if model.trained_in(name) else frozen_linear_bwd
    dx_NI = _collect(model, name, bwd, rows(dy_NTO), cache, grads, below)
    return dx_NI.reshape(*dy_NTO.shape[:-1], -1) if below else None


def norm_bwd(model: Model, name: str, dy: Array, cache: Any, grads: Grads, below: bool) -> Array | None:
    """The same for a LayerNorm."""
    return _collect(model, name, layer_norm_bwd, dy, cache, grads, below)


def _collect(
    model: Model, name: str, bwd: Any, dy: Array, cache: Any, grads: Grads, below: bool, of: str = "x"
) -> Array | None:
    trained = model.trained_in(name)
    local = bwd(dy, cache, wrt=trained | {of} if below else trained)
    for key in trained:
        # an array that the forward uses twice collects both gradients
        before = grads.get(f"{name}.{key}")
        grads[f"{name}.{key}"] = local[key] if before is None else before + local[key]
    return local[of] if below else None


def norm_fwd(model: Model, name: str, x_NTD: Array) -> tuple[Array, Any]:
    """LayerNorm with this module's gamma and beta."""
    return layer_norm_fwd(x_NTD, model.params[f"{name}.gamma"], model.params[f"{name}.beta"], model.config.eps)


# --- one block: with a bottleneck adapter or without ---------------------------------------------


def block_fwd(model: Model, name: str, z_NTD: Array, skip_NTD: Array) -> tuple[Array, Any]:
    """skip + f(z) with the bottleneck adapter of that name; skip, and no cache, where there is none."""
    if name not in model.adapted:
        return skip_NTD, None
    f_NTD, cache = OPS[METHODS[model.adapter.method].op].fwd(z_NTD, **adapter_arguments(model, name))
    return skip_NTD + f_NTD, cache


def block_bwd(model: Model, name: str, df: Array, cache: Any, grads: Grads, below: bool) -> Array | None:
    """The adapter's trained gradients into ``grads``; return dz when something ``below`` needs it."""
    return _collect(model, name, OPS[METHODS[model.adapter.method].op].bwd, df, cache, grads, below, of="z")


# --- one layer -----------------------------------------------------------------------------------


def layer_fwd(model: Model, at: str, x_NTD: Array, mask_NT: Array | None, keep: Keep) -> tuple[Array, Any]:
    """One encoder layer, ``at`` = "layers.0".  x (N, T, D) -> y (N, T, D)."""
    # a = output(attention(query(x), key(x), value(x)))
    q_NTD, c_query = project_fwd(model, f"{at}.query", x_NTD, keep)
    k_NTD, c_key = project_fwd(model, f"{at}.key", x_NTD, keep)
    v_NTD, c_value = project_fwd(model, f"{at}.value", x_NTD, keep)
    o_NTD, c_attention = attention_fwd(q_NTD, k_NTD, v_NTD, model.config.heads, mask_NT, model.config.causal)
    a_NTD, c_output = project_fwd(model, f"{at}.output", o_NTD, keep)
    # h = LN(x + a),   a + f(a) for a where an adapter sits there
    a_NTD, c_attn_block = block_fwd(model, f"{at}.attn_block", a_NTD, skip_NTD=a_NTD)
    h_NTD, c_attn_norm = norm_fwd(model, f"{at}.attn_norm", x_NTD + a_NTD)
    # m = ffn_out(gelu(ffn_in(h)))
    i_NTF, c_ffn_in = project_fwd(model, f"{at}.ffn_in", h_NTD, keep)
    g_NTF, c_gelu = gelu_fwd(i_NTF)
    m_NTD, c_ffn_out = project_fwd(model, f"{at}.ffn_out", g_NTF, keep)
    # y = LN(s),   s = h + m,   m + f(m) for m where an adapter sits there
    m_NTD, c_ffn_block = block_fwd(model, f"{at}.ffn_block", m_NTD, skip_NTD=m_NTD)
    s_NTD = h_NTD + m_NTD
    y_NTD, c_ffn_norm = norm_fwd(model, f"{at}.ffn_norm", s_NTD)
    # y = LN(s + f(LN(s))) where an adapter sits behind the norm
    s_NTD, c_norm_block = block_fwd(model, f"{at}.norm_block", y_NTD, skip_NTD=s_NTD)
    c_again = None
    if c_norm_block is not None:
        y_NTD, c_again = norm_fwd(model, f"{at}.ffn_norm", s_NTD)
    attention_caches = (c_query, c_key, c_value, c_attention, c_output, c_attn_block, c_attn_norm)
    return y_NTD, (*attention_caches, c_ffn_in, c_gelu, c_ffn_out, c_ffn_block, c_ffn_norm, c_norm_block, c_again)


def anything_below(model: Model, at: str, need_dx: bool) -> dict[str, bool]:
    """For each module of a layer: does anything under it train, so that it must hand its dx on?"""
    below = dict.fromkeys(("query", "key", "value"), need_dx)
    need = need_dx or any(model.trained_in(f"{at}.{m}") for m in below)
    for module in ("output", "attn_block", "attn_norm", "ffn_in", "ffn_out", "ffn_block", "ffn_norm", "norm_block"):
        below[module] = need
        need = need or bool(model.trained_in(f"{at}.{module}"))
    return below | {"again": need}


def layer_bwd(model: Model, at: str, dy_NTD: Array, cache: Any, grads: Grads, need_dx: bool) -> Array | None:
    """The layer read upwards. Fills ``grads``; returns dx (N, T, D) if asked for and stops early if not."""
    c_query, c_key, c_value, c_attention, c_output, c_attn_block, c_attn_norm, *cache = cache
    c_ffn_in, c_gelu, c_ffn_out, c_ffn_block, c_ffn_norm, c_norm_block, c_again = cache
    below = anything_below(model, at, need_dx)
    # y = LN(s + f(LN(s))) where an adapter sits behind the norm: s reaches y twice
    dskip_NTD = None
    if c_again is not None:
        dskip_NTD = norm_bwd(model, f"{at}.ffn_norm", dy_NTD, c_again, grads, below["again"])
        if not below["again"]:
            return None
        dy_NTD = block_bwd(model, f"{at}.norm_block", dskip_NTD, c_norm_block, grads, below["norm_block"])
        if not below["norm_block"]:
            return None
    # y = LN(s),   s = h + m
    ds_NTD = norm_bwd(model, f"{at}.ffn_norm", dy_NTD, c_ffn_norm, grads, below["ffn_norm"])
    if not below["ffn_norm"]:
        return None
    ds_NTD = dm_NTD = ds_NTD if dskip_NTD is None else ds_NTD + dskip_NTD
    if c_ffn_block is not None:
        df_NTD = block_bwd(model, f"{at}.ffn_block", ds_NTD, c_ffn_block, grads, below["ffn_block"])
        if not below["ffn_block"]:
            return None
        dm_NTD = ds_NTD + df_NTD
    # m = ffn_out(gelu(ffn_in(h)))
    dg_NTF = project_bwd(model, f"{at}.ffn_out", dm_NTD, c_ffn_out, grads, below["ffn_out"])
    if not below["ffn_out"]:
        return None
    di_NTF = gelu_bwd(dg_NTF, c_gelu)["x"]
    dffn_NTD = project_bwd(model, f"{at}.ffn_in", di_NTF, c_ffn_in, grads, below["ffn_in"])
    if not below["ffn_in"]:
        return None
    # h reaches y twice: through the residual and through the feed-forward block
    dh_NTD = ds_NTD + dffn_NTD
    # h = LN(x + a)
    dsum_NTD = da_NTD = norm_bwd(model, f"{at}.attn_norm", dh_NTD, c_attn_norm, grads, below["attn_norm"])
    if not below["attn_norm"]:
        return None
    if c_attn_block is not None:
        df_NTD = block_bwd(model, f"{at}.attn_block", dsum_NTD, c_attn_block, grads, below["attn_block"])
        if not below["attn_block"]:
            return None
        da_NTD = dsum_NTD + df_NTD
    # a = output(attention(query(x), key(x), value(x)))
    do_NTD = project_bwd(model, f"{at}.output", da_NTD, c_output, grads, below["output"])
    if not below["output"]:
        return None
    inputs = (("q", "query", c_query), ("k", "key", c_key), ("v", "value", c_value))
    needed = [(d, m, c) for d, m, c in inputs if need_dx or model.trained_in(f"{at}.{m}")]
    dattention = attention_bwd(do_NTD, c_attention, wrt=[d for d, _, _ in needed])
    dx_NTD = dsum_NTD
    for d, module, c in needed:
        dpath_NTD = project_bwd(model, f"{at}.{module}", dattention[d], c, grads, need_dx)
        if need_dx:
            dx_NTD = dx_NTD + dpath_NTD
    return dx_NTD if need_dx else None


# --- the whole encoder ---------------------------------------------------------------------------


def embed_fwd(model: Model, inputs: Array, types_NT: Array | None) -> tuple[Array, Any]:
    """What layer 0 reads (N, T, D), of token ids (N, T) or continuous tokens (N, T, I)."""
    config, p = model.config, model.params
    # e = LN(embed(input) + position + type)
    if config.vocab:
        e_NTD, c_embed = embedding_fwd(inputs, p["embed.W"])
    else:
        e_NTD, c_embed = linear_fwd(inputs, p["embed.W"], p["embed.b"])
    if config.pad_id is None:
        position_NTD, c_position = p["position.W"][: inputs.shape[1]], None
    else:
        position_NTD, c_position = embedding_fwd(padded_positions(inputs, config.pad_id), p["position.W"])
    e_NTD, c_type = e_NTD + position_NTD, None
    if config.types:
        types_NT = np.zeros(inputs.shape[:2], dtype=int) if types_NT is None else types_NT
        type_NTD, c_type = embedding_fwd(types_NT, p["type.W"])
        e_NTD = e_NTD + type_NTD
    x_NTD, c_norm = norm_fwd(model, "embed_norm", e_NTD)
    return x_NTD, (c_embed, c_position, c_type, c_norm)


def embed_bwd(model: Model, dx_NTD: Array, cache: Any, grads: Grads) -> None:
    """The embeddings' trained gradients into ``grads``."""
    c_embed, c_position, c_type, c_norm = cache
    # e = LN(embed(input) + position + type)
    under = model.trained_in("embed") | model.trained_in("position") | model.trained_in("type")
    de_NTD = norm_bwd(model, "embed_norm", dx_NTD, c_norm, grads, bool(under))
    if model.trained_in("type"):
        _collect(model, "type", embedding_bwd, de_NTD, c_type, grads, below=False)
    if model.trained_in("position") and model.config.pad_id is not None:
        _collect(model, "position", embedding_bwd, de_NTD, c_position, grads, below=False)
    elif model.trained_in("position"):
        dposition_TD = np.zeros_like(model.params["position.W"], dtype=de_NTD.dtype)
        dposition_TD[: de_NTD.shape[1]] = de_NTD.sum(axis=0)
        grads["position.W"] = dposition_TD
    if model.trained_in("embed"):
        tokens_bwd = embedding_bwd if model.config.vocab else linear_bwd
        _collect(model, "embed", tokens_bwd, de_NTD, c_embed, grads, below=False)


def hidden_states(
    model: Model,
    inputs: Array,
    mask_NT: Array | None = None,
    types_NT: Array | None = None,
    layer: int | None = None,
) -> Array:
    """What ``layer`` reads (N, T, D), without dropout; None: what the last layer gives. Raises InputError."""
    check_inputs(model, inputs, mask_NT, types_NT)
    if layer is not None:
        check_layer(model.config, layer)
    x_NTD = inputs if model.config.first else embed_fwd(model, inputs, types_NT)[0]
    for below in range(model.config.first, model.config.layers if layer is None else layer):
        x_NTD, _ = layer_fwd(model, f"layers.{below}", x_NTD, mask_NT, {})
    return x_NTD


def encoder_fwd(
    model: Model,
    inputs: Array,
    mask_NT: Array | None = None,
    keep: Keep | None = None,
    types_NT: Array | None = None,
) -> tuple[Array, Any]:
    """Logits (N, V).  inputs: token ids (N, T), or continuous tokens (N, T, I), or the hidden states (N, T, D) that
    the lowest layer held reads; mask (N, T), True where a token is real; keep: dropout masks by matrix name, None
    for evaluation; token types (N, T), None: all zero. Raises InputError, ShapeError."""
    check_inputs(model, inputs, mask_NT, types_NT)
    config, keep = model.config, keep or {}
    x_NTD, c_embedding = (inputs, None) if config.first else embed_fwd(model, inputs, types_NT)
    c_embedding = c_embedding if model.lowest < 0 else None
    c_layers = []
    for layer in range(config.first, config.layers):
        x_NTD, c_layer = layer_fwd(model, f"layers.{layer}", x_NTD, mask_NT, keep)
        c_layers.append(c_layer if layer >= model.lowest else None)
    # z = pool(x), or tanh(pooler(pool(x)));   logits = head(z)
    if config.pool == "mean":
        z_ND, c_pool = mean_pool_fwd(x_NTD, mask_NT)
    else:
        z_ND, c_pool = first_token_fwd(x_NTD)
    c_pooler = c_tanh = None
    if config.pooler:
        z_ND, c_pooler = project_fwd(model, "pooler", z_ND, keep)
        z_ND, c_tanh = tanh_fwd(z_ND)
    logits_NV, c_head = project_fwd(model, "head", z_ND, keep)
    return logits_NV, (model, c_embedding, c_layers, c_pool, (c_pooler, c_tanh, c_head))


def encoder_bwd(dlogits_NV: Array, cache: Any) -> Grads:
    """The gradient of every trained array, by its name."""
    model, c_embedding, c_layers, c_pool, (c_pooler, c_tanh, c_head) = cache
    config, grads = model.config, {}
    in_layers = model.lowest < config.layers
    # logits = head(z);   z = pool(x), or tanh(pooler(pool(x)))
    dz_ND = project_bwd(model, "head", dlogits_NV, c_head, grads, in_layers or bool(model.trained_in("pooler")))
    if dz_ND is not None and config.pooler:
        dz_ND = tanh_bwd(dz_ND, c_tanh)["x"]
        dz_ND = project_bwd(model, "pooler", dz_ND, c_pooler, grads, in_layers)
    if dz_ND is None:
        return grads
    dx_NTD = (mean_pool_bwd if config.pool == "mean" else first_token_bwd)(dz_ND, c_pool)["x"]
    # the layers, from the top to the lowest that trains; only that one may stop early
    for layer in range(config.layers - 1, max(model.lowest, 0) - 1, -1):
        c_layer = c_layers[layer - config.first]
        dx_NTD = layer_bwd(model, f"layers.{layer}", dx_NTD, c_layer, grads, layer > model.lowest)
    if model.lowest < 0:
        embed_bwd(model, dx_NTD, c_embedding, grads)
    return grads


def loss_and_grads(
    model: Model,
    inputs: Array,
    labels_N: Array,
    mask_NT: Array | None = None,
    keep: Keep | None = None,
    types_NT: Array | None = None,
) -> tuple[Array, Grads, Array]:
    """The mean cross-entropy of a batch, the gradient of every trained array, and the logits (N, V)."""
    logits_NV, c_encoder = encoder_fwd(model, inputs, mask_NT, keep, types_NT)
    loss, c_loss = cross_entropy_fwd(logits_NV, labels_N)
    dlogits_NV = cross_entropy_bwd(1.0, c_loss)["logits"]
    return loss, encoder_bwd(dlogits_NV, c_encoder), logits_NV


# --- merging -------------------------------------------------------------------------------------


def delta_w(model: Model, name: str) -> Array:
    """dW = W' - W0 (I, O) of one adapted matrix, as evaluation sees it."""
    W0_IO = model.merged.get(name, model.params[f"{name}.W"])
    return METHODS[model.adapter.method].delta_w(W0_IO, **adapter_arguments(model, name))


def merge(model: Model) -> Model:
    """A model whose adapted matrices are W0 + dW and run as plain linear layers, equal in evaluation.

    Out of place: the given model is unchanged, and the new one keeps the original W0 for ``model.unmerge``.
    """
    return with_merged(model, {name: delta_w(model, name) for name in mergeable(model)})
