"""Seeded draws of every weight. Both rooms start from these arrays, so twins start equal.

Equation    released (kaiming_normal_(a = sqrt 5) on A stored (I, R) and C stored (S, O), where torch takes
            the second axis as fan-in):     A ~ N(0, 1 / (3 R)),   C ~ N(0, 1 / (3 O))
            fan_in (the axis summed over):  A ~ N(0, 1 / (3 I)),   C ~ N(0, 1 / (3 S))
            TLoRA starts at B = 0, alpha = 1; how its relatives start stands above each draw.
Checked by  tests/test_init.py, tests/test_family.py.

Each array has a stream of its own, seeded by (seed, its name): adding, removing or reordering arrays changes
no other draw, and one array can be drawn again without the rest.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from hashlib import sha256
from math import sqrt

import numpy as np

from .config import AdapterConfig, EncoderConfig
from .model import SHARED, Model, adapted_matrices, encoder_shapes, trained_names
from .registry import METHODS
from .shapes import InputError

Array = np.ndarray


def stream(seed: int, name: str) -> np.random.Generator:
    """The random generator of one named array."""
    return np.random.default_rng([seed, *sha256(name.encode()).digest()[:8]])


def normal(seed: int, name: str, shape: tuple[int, ...], std: float) -> Array:
    """float64 draws of N(0, std^2)."""
    return std * stream(seed, name).standard_normal(shape)


def factor_stds(rule: str, I: int, O: int, R: int) -> tuple[float, float]:
    """The standard deviations of TLoRA's A (I, R) and C (R, O) under a rule of config.INITS."""
    fan_A, fan_C = {"released": (R, O), "fan_in": (I, R)}[rule]
    return 1 / sqrt(3 * fan_A), 1 / sqrt(3 * fan_C)


def tlora_arrays(name: str, W0_IO: Array, adapter: AdapterConfig) -> dict[str, Array]:
    """TLoRA (arXiv 2504.18735, section 3): A, C normal as the rule says, B = 0, alpha = 1."""
    (I, O), R = W0_IO.shape, adapter.rank
    std_A, std_C = factor_stds(adapter.init, I, O, R)
    A_IR = normal(adapter.seed, f"{name}.A", (I, R), std_A)
    C_RO = normal(adapter.seed, f"{name}.C", (R, O), std_C)
    return {"A": A_IR, "B": np.zeros((R, R)), "C": C_RO, "alpha": np.ones(())}


def lora_arrays(name: str, W0_IO: Array, adapter: AdapterConfig) -> dict[str, Array]:
    """LoRA and LoRA-FA (arXiv 2106.09685, as the authors' code draws it): A uniform in +-1 / sqrt(I), B = 0."""
    (I, O), R = W0_IO.shape, adapter.rank
    return {"A": _uniform(adapter.seed, f"{name}.A", (I, R), 1 / sqrt(I)), "B": np.zeros((R, O))}


def vera_arrays(name: str, W0_IO: Array, adapter: AdapterConfig) -> dict[str, Array]:
    """VeRA's vectors (arXiv 2310.11454, as in Hugging Face PEFT): lambda_d = 0.1, lambda_b = 0."""
    return {"lambda_d": np.full(adapter.rank, 0.1), "lambda_b": np.zeros(W0_IO.shape[1])}


def vera_shared(I: int, O: int, adapter: AdapterConfig) -> dict[str, Array]:
    """VeRA's pair for all matrices, cut to each one's size: Kaiming uniform, A in +-sqrt(6 / I), B in +-sqrt(6 / R)."""
    R, seed = adapter.rank, adapter.seed
    A_IR = _uniform(seed, f"{SHARED}.A", (I, R), sqrt(6 / I))
    return {"A": A_IR, "B": _uniform(seed, f"{SHARED}.B", (R, O), sqrt(6 / R))}


def lora_xs_arrays(name: str, W0_IO: Array, adapter: AdapterConfig) -> dict[str, Array]:
    """LoRA-XS (arXiv 2405.17604): W0 = U S V^T, A = U_r S_r, C = V_r^T, M ~ N(0, 1e-5^2): near zero, not zero."""
    R = adapter.rank
    U_IK, S_K, Vt_KO = np.linalg.svd(np.asarray(W0_IO, dtype=np.float64), full_matrices=False)
    # a singular vector's sign is free: its largest entry is made positive, so that draws agree between libraries
    sign_R = np.sign(np.take_along_axis(U_IK, np.abs(U_IK).argmax(axis=0)[None], axis=0))[0, :R]
    A_IR, C_RO = U_IK[:, :R] * (S_K[:R] * sign_R), Vt_KO[:R] * sign_R[:, None]
    return {"A": A_IR, "M": normal(adapter.seed, f"{name}.M", (R, R), 1e-5), "C": C_RO}


def dora_arrays(name: str, W0_IO: Array, adapter: AdapterConfig) -> dict[str, Array]:
    """DoRA (arXiv 2402.09353): A, B as in LoRA, the magnitudes the column norms of W0."""
    return lora_arrays(name, W0_IO, adapter) | {"magnitude": _column_norms(W0_IO)}


def edora_arrays(name: str, W0_IO: Array, adapter: AdapterConfig) -> dict[str, Array]:
    """EDoRA (arXiv 2501.12067): A, M, C as in LoRA-XS, the magnitudes the column norms of W0."""
    return lora_xs_arrays(name, W0_IO, adapter) | {"magnitude": _column_norms(W0_IO)}


def mtlora_arrays(name: str, W0_IO: Array, adapter: AdapterConfig) -> dict[str, Array]:
    """MTLoRA (arXiv 2403.07440, its NLU code): A, B as in LoRA, the core's C and D uniform in +-1 / sqrt(R)."""
    R, form = adapter.rank, adapter.method.rpartition("_")[2]
    core = ("C", "D") if form in ("ctcm", "dtsm") else ("C",)
    drawn = {k: _uniform(adapter.seed, f"{name}.{k}", (R, R), 1 / sqrt(R)) for k in core}
    return lora_arrays(name, W0_IO, adapter) | drawn


def bottleneck_arrays(name: str, W0_IO: Array, adapter: AdapterConfig) -> dict[str, Array]:
    """Adapter-H and -P (arXiv 1902.00751, 2005.00247, AdapterHub's "bert" init): N(0, 0.02^2), biases 0."""
    (D, _), R, seed = W0_IO.shape, adapter.rank, adapter.seed
    down_DR, up_RD = normal(seed, f"{name}.down", (D, R), 0.02), normal(seed, f"{name}.up", (R, D), 0.02)
    return {"down": down_DR, "down_b": np.zeros(R), "up": up_RD, "up_b": np.zeros(D)}


def _uniform(seed: int, name: str, shape: tuple[int, ...], bound: float) -> Array:
    return stream(seed, name).uniform(-bound, bound, shape)


def _column_norms(W0_IO: Array) -> Array:
    # in the dtype of W0 and by the kernel's own expression, so that m / n is exactly 1 at the start
    return np.sqrt((W0_IO * W0_IO).sum(axis=0))


DRAWS = {
    "tlora": tlora_arrays,
    "lora": lora_arrays,
    "lora_fa": lora_arrays,
    "vera": vera_arrays,
    "lora_xs": lora_xs_arrays,
    "dora": dora_arrays,
    "dora_full": dora_arrays,
    "edora": edora_arrays,
    **{f"mtlora_{form}": mtlora_arrays for form in ("shim", "icfm", "ctcm", "dtsm")},
    "adapter_h": bottleneck_arrays,
    "adapter_p": bottleneck_arrays,
}
"""Method -> draw(name, W0, adapter): the arrays of one matrix, by local name, in float64. For methods that do not
start from W0's numbers its shape is enough."""


def shared_arrays(matrices: Mapping[str, tuple[int, int]], adapter: AdapterConfig) -> dict[str, Array]:
    """The arrays all matrices share, as large as the largest needs: {} for methods that share none."""
    if not METHODS[adapter.method].shared:
        return {}
    return vera_shared(max(I for I, _ in matrices.values()), max(O for _, O in matrices.values()), adapter)


def init_encoder(config: EncoderConfig, seed: int = 0, dtype: type = np.float32) -> Model:
    """A fresh encoder, all of it trained: weights N(0, 1 / fan_in), embeddings of ids, positions and token
    types N(0, 0.02^2), biases 0, gamma 1."""
    params = {}
    for name, shape in encoder_shapes(config).items():
        local = name.rpartition(".")[2]
        if local == "gamma":
            array = np.ones(shape)
        elif local in ("b", "beta"):
            array = np.zeros(shape)
        else:
            embeds = name in ("position.W", "type.W") or (name == "embed.W" and config.vocab is not None)
            array = normal(seed, name, shape, 0.02 if embeds else 1 / sqrt(shape[0]))
        params[name] = array.astype(dtype)
    return Model(config, params, trained=frozenset(params))


def attach(model: Model, adapter: AdapterConfig, train_also: Collection[str] = ()) -> Model:
    """The model with a fresh adapter beside the chosen matrices; only the adapter's trained arrays and
    ``train_also`` (names of the model's arrays) train from here on. The given model is left as it is.

    Raises InputError for an unknown target or layer, a rank above min(I, O), a second adapter.
    """
    if model.adapter is not None:
        raise InputError(f"the model already has a {model.adapter.method} adapter; merge or detach it first")
    matrices = adapted_matrices(model.config, adapter)
    arrays = {f"{SHARED}.{k}": a for k, a in shared_arrays(matrices, adapter).items()}
    for name, shape in matrices.items():
        W0_IO = model.params.get(f"{name}.W", np.broadcast_to(0.0, shape))
        arrays.update({f"{name}.{k}": a for k, a in DRAWS[adapter.method](name, W0_IO, adapter).items()})
    dtype = model.params["head.W"].dtype
    arrays = {name: array.astype(dtype) for name, array in arrays.items()}
    unknown = sorted(set(train_also) - set(model.params))
    if unknown:
        raise InputError(f"train_also names {unknown[0]!r}, which the model does not have")
    return replace(
        model,
        params={**model.params, **arrays},
        trained=trained_names(model.config, adapter) | frozenset(train_also),
        adapter=adapter,
    )


def detach(model: Model) -> Model:
    """The base as it was before ``attach``, with nothing trained."""
    if model.merged:
        raise InputError("the adapter is merged; unmerge it before detaching")
    params: Mapping[str, Array] = {n: model.params[n] for n in encoder_shapes(model.config)}
    return Model(model.config, params)
