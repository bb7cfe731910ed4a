"""A post-LayerNorm transformer encoder, the ops composed; the backward is the forward read upwards.

Equation    e = LN(embed(input) + position + type)
            per layer:  h = LN(x + output(attention(query(x), key(x), value(x))))
                        y = LN(h + ffn_out(gelu(ffn_in(h))))    (Houlsby's and Pfeiffer's adapters add f(.) here)
            logits = head(pool(y)), or head(tanh(pooler(pool(y))))    (BERT, arXiv 1810.04805, without dropout)
Twin        by_autograd/encoder.py.
Checked by  tests/test_encoder.py: every gradient against the complex step and central differences;
            tests/test_pretrained.py: published models' architectures, against Hugging Face transformers.

Gradients are computed for what trains and for nothing else: a frozen matrix keeps no input, and the layers under the
lowest trained one keep no cache and are not read upwards. Nor is anything computed for padding: only attention needs
sequences of one length, and between two attentions the real tokens of a batch are rows of one matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..model import Model, adapter_arguments, adapter_arrays, check_inputs, check_layer, padded_positions
from ..shapes import InputError
from .ops import (
    Array,
    Cache,
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


def project_fwd(model: Model, name: str, x_NTI: Array, keep: Keep) -> tuple[Array, Cache]:
    """x W + b through the kernel that this matrix needs, all tokens as rows: one large product is several times
    faster than one small one per sequence."""
    W_IO, b_O, x_NI = model.params[f"{name}.W"], model.params[f"{name}.b"], rows(x_NTI)
    if name in model.adapted:
        method, arguments = model.method, adapter_arguments(model, name)
        if method.constants_of is not None:
            arguments |= method.constants_of(W_IO, **arguments)
        if name in keep:
            arguments[method.keep] = rows(keep[name])
        y_NO, cache = method.kernel.fwd(x_NI, W_IO, b_O, **arguments)
    elif model.trained_in(name):
        y_NO, cache = linear_fwd(x_NI, W_IO, b_O)
    else:
        y_NO, cache = frozen_linear_fwd(x_NI, W_IO, b_O)
    return y_NO.reshape(*x_NTI.shape[:-1], -1), cache


def project_bwd(model: Model, name: str, dy_NTO: Array, cache: Cache, grads: Grads) -> Array:
    """Put the trained gradients of this matrix into ``grads``; return dx (N, T, I)."""
    dy_NO = rows(dy_NTO)
    if name in model.adapted:
        dx_NI = adapter_bwd(model, name, dy_NO, cache, grads, "x")
    elif model.trained_in(name):
        local = linear_bwd(dy_NO, cache, wrt={"x", *model.trained_in(name)})
        dx_NI = local.pop("x")
        add_gradients(grads, name, local)
    else:
        dx_NI = frozen_linear_bwd(dy_NO, cache)["x"]
    return dx_NI.reshape(*dy_NTO.shape[:-1], -1)


def adapter_bwd(model: Model, name: str, dy: Array, cache: Cache, grads: Grads, of: str) -> Array:
    """The backward of an adapted matrix or block: its trained gradients into ``grads``, that of its input ``of``
    returned. Gradients of arrays that other matrices share add up."""
    method, site, trained, home = model.method, model.adapted[name], model.trained_at(name), model.attached.home(name)
    local = method.kernel.bwd(dy, cache, wrt=method.kernel.wrt if method.scatter else {of, *trained})
    dx = local.pop(of)
    for base, gradient in method.gradients(local, adapter_arrays(model, name), site).items():
        if base in trained:
            full = method.full_name(home, base)
            grads[full] = grads[full] + gradient if full in grads else gradient
    return dx


def add_gradients(grads: Grads, name: str, local: Grads) -> None:
    """Add the gradients of one module: an array that the forward uses twice collects both."""
    for key, gradient in local.items():
        full = f"{name}.{key}"
        grads[full] = grads[full] + gradient if full in grads else gradient


def norm_fwd(model: Model, name: str, x_NTD: Array) -> tuple[Array, Cache]:
    """LayerNorm with this module's gamma and beta."""
    return layer_norm_fwd(x_NTD, model.params[f"{name}.gamma"], model.params[f"{name}.beta"], model.config.eps)


def norm_bwd(model: Model, name: str, dy_NTD: Array, cache: Cache, grads: Grads) -> Array:
    """Put the trained gradients of this LayerNorm into ``grads``; return dx (N, T, D)."""
    local = layer_norm_bwd(dy_NTD, cache, wrt={"x", *model.trained_in(name)})
    dx_NTD = local.pop("x")
    add_gradients(grads, name, local)
    return dx_NTD


# --- one block: with a bottleneck adapter or without ---------------------------------------------


def block_fwd(model: Model, name: str, z_NTD: Array, skip_NTD: Array) -> tuple[Array, Cache | None]:
    """skip + f(z) with the bottleneck adapter of that name; skip, and no cache, where there is none."""
    if name not in model.adapted:
        return skip_NTD, None
    f_NTD, cache = model.method.kernel.fwd(z_NTD, **adapter_arguments(model, name))
    return skip_NTD + f_NTD, cache


def block_bwd(model: Model, name: str, dout_NTD: Array, cache: Cache | None, grads: Grads) -> Array:
    """dz (N, T, D) of z + f(z): dout through the skip and through the adapter, where there is one."""
    if cache is None:
        return dout_NTD
    return dout_NTD + adapter_bwd(model, name, dout_NTD, cache, grads, "z")


# --- padding: left out between one attention and the next ----------------------------------------


def real_tokens(model: Model, mask_NT: Array | None) -> Array | None:
    """Which tokens the logits depend on, (N, T); None: all. A first token is pooled even where it is padding."""
    if mask_NT is None:
        return None
    real_NT = mask_NT.copy()
    if model.config.pool == "first":
        real_NT[:, 0] = True
    return None if real_NT.all() else real_NT


def packed(x_NTD: Array, real_NT: Array | None) -> Array:
    """(N, T, D) -> (M, D): the rows of the M real tokens. With None: x."""
    return x_NTD if real_NT is None else x_NTD[real_NT]


def spread(x_MD: Array, real_NT: Array | None) -> Array:
    """(M, D) -> (N, T, D): the rows in their places, and zeros in those of padding. With None: x."""
    if real_NT is None:
        return x_MD
    x_NTD = np.zeros_like(x_MD, shape=(*real_NT.shape, x_MD.shape[-1]))
    x_NTD[real_NT] = x_MD
    return x_NTD


# --- one layer -----------------------------------------------------------------------------------


class LayerCache(NamedTuple):
    """What each step of a layer keeps for its backward, in the order of the forward; None: there is no adapter."""

    query: Cache
    key: Cache
    value: Cache
    attention: Cache
    output: Cache
    attn_block: Cache | None
    attn_norm: Cache
    ffn_in: Cache
    gelu: Cache
    ffn_out: Cache
    ffn_block: Cache | None
    ffn_norm: Cache
    norm_block: Cache | None
    again: Cache | None


def layer_fwd(
    model: Model, at: str, x_NTD: Array, mask_NT: Array | None, keep: Keep, real_NT: Array | None = None
) -> tuple[Array, LayerCache]:
    """One encoder layer, ``at`` = "layers.0".  x (N, T, D) -> y (N, T, D), or, where ``real`` is given, the rows of its
    tokens alone: (M, D) -> (M, D)."""
    # a = output(attention(query(x), key(x), value(x)))
    q_NTD, c_query = project_fwd(model, f"{at}.query", x_NTD, keep)
    k_NTD, c_key = project_fwd(model, f"{at}.key", x_NTD, keep)
    v_NTD, c_value = project_fwd(model, f"{at}.value", x_NTD, keep)
    q_NTD, k_NTD, v_NTD = (spread(a, real_NT) for a in (q_NTD, k_NTD, v_NTD))
    o_NTD, c_attention = attention_fwd(q_NTD, k_NTD, v_NTD, model.config.heads, mask_NT, model.config.causal)
    a_NTD, c_output = project_fwd(model, f"{at}.output", packed(o_NTD, real_NT), keep)
    # h = LN(x + a),   a + f(a) for a where an adapter sits there
    a_NTD, c_attn_block = block_fwd(model, f"{at}.attn_block", a_NTD, skip_NTD=a_NTD)
    h_NTD, c_attn_norm = norm_fwd(model, f"{at}.attn_norm", x_NTD + a_NTD)
    del o_NTD, a_NTD  # what is not kept goes before the widest arrays come
    # m = ffn_out(gelu(ffn_in(h)))
    i_NTF, c_ffn_in = project_fwd(model, f"{at}.ffn_in", h_NTD, keep)
    i_NTF, c_gelu = gelu_fwd(i_NTF)
    m_NTD, c_ffn_out = project_fwd(model, f"{at}.ffn_out", i_NTF, keep)
    del i_NTF
    # y = LN(s),   s = h + m,   m + f(m) for m where an adapter sits there
    m_NTD, c_ffn_block = block_fwd(model, f"{at}.ffn_block", m_NTD, skip_NTD=m_NTD)
    s_NTD = h_NTD + m_NTD
    y_NTD, c_ffn_norm = norm_fwd(model, f"{at}.ffn_norm", s_NTD)
    # y = LN(s + f(LN(s))) where an adapter sits behind the norm
    s_NTD, c_norm_block = block_fwd(model, f"{at}.norm_block", y_NTD, skip_NTD=s_NTD)
    c_again = None
    if c_norm_block is not None:
        y_NTD, c_again = norm_fwd(model, f"{at}.ffn_norm", s_NTD)
    return y_NTD, LayerCache(
        query=c_query,
        key=c_key,
        value=c_value,
        attention=c_attention,
        output=c_output,
        attn_block=c_attn_block,
        attn_norm=c_attn_norm,
        ffn_in=c_ffn_in,
        gelu=c_gelu,
        ffn_out=c_ffn_out,
        ffn_block=c_ffn_block,
        ffn_norm=c_ffn_norm,
        norm_block=c_norm_block,
        again=c_again,
    )


def layer_bwd(model: Model, at: str, dy_NTD: Array, c: LayerCache, grads: Grads, real_NT: Array | None = None) -> Array:
    """The layer read upwards. Fills ``grads``; returns dx, of dy's shape."""
    # y = LN(s + f(LN(s))) where an adapter sits behind the norm: s reaches y twice
    if c.norm_block is not None and c.again is not None:
        dskip_NTD = norm_bwd(model, f"{at}.ffn_norm", dy_NTD, c.again, grads)
        dz_NTD = adapter_bwd(model, f"{at}.norm_block", dskip_NTD, c.norm_block, grads, "z")
        ds_NTD = dskip_NTD + norm_bwd(model, f"{at}.ffn_norm", dz_NTD, c.ffn_norm, grads)
    # y = LN(s)
    else:
        ds_NTD = norm_bwd(model, f"{at}.ffn_norm", dy_NTD, c.ffn_norm, grads)
    del dy_NTD
    # s = h + m,   m + f(m) for m where an adapter sits there
    dm_NTD = block_bwd(model, f"{at}.ffn_block", ds_NTD, c.ffn_block, grads)
    # m = ffn_out(gelu(ffn_in(h)))
    di_NTF = project_bwd(model, f"{at}.ffn_out", dm_NTD, c.ffn_out, grads)
    di_NTF = gelu_bwd(di_NTF, c.gelu)["x"]
    # h reaches s twice: through the residual and through the feed-forward block
    dh_NTD = ds_NTD + project_bwd(model, f"{at}.ffn_in", di_NTF, c.ffn_in, grads)
    del ds_NTD, dm_NTD, di_NTF
    # h = LN(x + a),   a + f(a) for a where an adapter sits there
    dsum_NTD = norm_bwd(model, f"{at}.attn_norm", dh_NTD, c.attn_norm, grads)
    del dh_NTD
    da_NTD = block_bwd(model, f"{at}.attn_block", dsum_NTD, c.attn_block, grads)
    # a = output(attention(query(x), key(x), value(x)))
    do_NTD = project_bwd(model, f"{at}.output", da_NTD, c.output, grads)
    dattention = attention_bwd(spread(do_NTD, real_NT), c.attention)
    del da_NTD, do_NTD
    dq_NTD, dk_NTD, dv_NTD = (packed(dattention.pop(name), real_NT) for name in "qkv")
    # x reaches h four times: through the residual, query, key and value
    dx_NTD = dsum_NTD + project_bwd(model, f"{at}.query", dq_NTD, c.query, grads)
    del dq_NTD
    dx_NTD = dx_NTD + project_bwd(model, f"{at}.key", dk_NTD, c.key, grads)
    del dk_NTD
    return dx_NTD + project_bwd(model, f"{at}.value", dv_NTD, c.value, grads)


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
    de_NTD = norm_bwd(model, "embed_norm", dx_NTD, c_norm, grads)
    if model.trained_in("type"):
        add_gradients(grads, "type", embedding_bwd(de_NTD, c_type))
    if model.trained_in("position") and model.config.pad_id is not None:
        add_gradients(grads, "position", embedding_bwd(de_NTD, c_position))
    elif model.trained_in("position"):
        dposition_TD = np.zeros_like(model.params["position.W"], dtype=de_NTD.dtype)
        dposition_TD[: de_NTD.shape[1]] = de_NTD.sum(axis=0)
        add_gradients(grads, "position", {"W": dposition_TD})
    if model.trained_in("embed"):
        tokens_bwd = embedding_bwd if model.config.vocab else linear_bwd
        add_gradients(grads, "embed", tokens_bwd(de_NTD, c_embed, wrt=model.trained_in("embed")))


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


class EncoderCache(NamedTuple):
    """The model, its real tokens, and what each step of the encoder keeps for its backward; None for a layer below all
    that trains."""

    model: Model
    real: Array | None
    embedding: Any
    layers: tuple[LayerCache | None, ...]
    pool: Cache
    pooler: Cache | None
    tanh: Cache | None
    head: Cache


def encoder_fwd(
    model: Model,
    inputs: Array,
    mask_NT: Array | None = None,
    keep: Keep | None = None,
    types_NT: Array | None = None,
) -> tuple[Array, EncoderCache]:
    """Logits (N, V).  inputs: token ids (N, T), or continuous tokens (N, T, I), or the hidden states (N, T, D) that
    the lowest layer held reads; mask (N, T), True where a token is real; keep: dropout masks by matrix name, None
    for evaluation; token types (N, T), None: all zero. Raises InputError, ShapeError."""
    check_inputs(model, inputs, mask_NT, types_NT)
    config, keep = model.config, keep or {}
    x_NTD, c_embedding = (inputs, None) if config.first else embed_fwd(model, inputs, types_NT)
    c_embedding = c_embedding if model.lowest < 0 else None
    real_NT = real_tokens(model, mask_NT)
    x_NTD, keep = packed(x_NTD, real_NT), {name: packed(a_NTO, real_NT) for name, a_NTO in keep.items()}
    c_layers: list[LayerCache | None] = []
    for layer in range(config.first, config.layers):
        x_NTD, c_layer = layer_fwd(model, f"layers.{layer}", x_NTD, mask_NT, keep, real_NT)
        c_layers.append(c_layer if layer >= model.lowest else None)
    x_NTD = spread(x_NTD, real_NT)
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
    return logits_NV, EncoderCache(model, real_NT, c_embedding, tuple(c_layers), c_pool, c_pooler, c_tanh, c_head)


def encoder_bwd(dlogits_NV: Array, cache: EncoderCache) -> Grads:
    """The gradient of every trained array, by its name."""
    model, c = cache.model, cache
    grads: Grads = {}
    # logits = head(z);   z = pool(x), or tanh(pooler(pool(x)))
    dz_ND = project_bwd(model, "head", dlogits_NV, c.head, grads)
    if c.pooler is not None and c.tanh is not None:
        dz_ND = project_bwd(model, "pooler", tanh_bwd(dz_ND, c.tanh)["x"], c.pooler, grads)
    dx_NTD = (mean_pool_bwd if model.config.pool == "mean" else first_token_bwd)(dz_ND, c.pool)["x"]
    dx = [packed(dx_NTD, c.real)]
    del dx_NTD
    # the layers, from the top to the lowest that trains: under it nothing asks for a gradient, and there is no cache
    for layer, c_layer in reversed(list(enumerate(c.layers, start=model.config.first))):
        if c_layer is not None:
            # taken out of a list, so that it is the layer's own and can go when it is read
            dx.append(layer_bwd(model, f"layers.{layer}", dx.pop(), c_layer, grads, c.real))
    if model.lowest < 0:
        embed_bwd(model, spread(dx.pop(), c.real), c.embedding, grads)
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
    dtype = model.params["head.W"].dtype
    keep = {name: mask.astype(dtype, copy=False) for name, mask in (keep or {}).items()}
    logits_NV, c_encoder = encoder_fwd(model, inputs, mask_NT, keep, types_NT)
    loss, c_loss = cross_entropy_fwd(logits_NV, labels_N)
    dlogits_NV = cross_entropy_bwd(1.0, c_loss)["logits"]
    return loss, encoder_bwd(dlogits_NV, c_encoder), logits_NV


def loss_and_logits(
    model: Model,
    inputs: Array,
    labels_N: Array,
    mask_NT: Array | None = None,
    types_NT: Array | None = None,
) -> tuple[float, Array]:
    """The mean cross-entropy of a batch and its logits (N, V), without dropout."""
    logits_NV, _ = encoder_fwd(model, inputs, mask_NT, types_NT=types_NT)
    return float(cross_entropy_fwd(logits_NV, labels_N)[0]), logits_NV


def delta_w(model: Model, name: str) -> Array:
    """dW = W' - W0 (I, O) of one adapted matrix, as evaluation sees it. Raises InputError if its method has none."""
    delta = model.method.delta_w
    if delta is None:
        raise InputError(f"{model.method.name} has no dW: no weight W0 + dW does what it does")
    return delta(model.merged.get(name, model.params[f"{name}.W"]), **adapter_arguments(model, name))


def own(model: Model, like: Model | None = None) -> Model:
    """The model itself: nothing by hand changes an array in place."""
    return model


def to_numpy(model: Model) -> Model:
    """The model itself."""
    return model
