"""The folder of a TLoRA adapter in Hugging Face PEFT, as arrays: what tlora_ref.peft writes and reads, without PEFT.

Format      adapter_config.json        TLoraConfig's options (tlora_ref/peft/config.py)
            adapter_model.safetensors  base_model.model.MODULE and
                .tlora_B (R, R), .tlora_alpha (1,)
                .tlora_A (I, R), .tlora_C (R, O)    with save_projection, and always where they are from a gradient
                .tlora_mark (2, 32)                 without: the fingerprints of A and C
                and under its own name what was trained beside the adapter
Checked by  tests/test_peft.py, with the real PEFT.

An adapter file of this project says which base it belongs to. A folder of PEFT does not, and neither does what is read
from one: its shapes and names are all that can be checked against a model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from .adapter_file import Adapter, matrix_beneath
from .by_hand.methods.tlora import tlora_draw
from .config import AdapterConfig
from .methods import Site
from .shapes import InputError
from .tensor_file import array_dtype, check_numbers, fingerprint

Array = np.ndarray

PREFIX = "base_model.model."


def marks(A_IR: Array, C_RO: Array) -> Array:
    """The fingerprints of A and C in float32, (2, 32) bytes: the same whatever dtype the adapter is kept in."""
    return np.array([list(bytes.fromhex(fingerprint(a.astype(np.float32)))) for a in (A_IR, C_RO)], np.uint8)


def drawn(site: Site, config: AdapterConfig) -> dict[str, Array]:
    """The adapter's arrays at the start, float64, by a rule for which a seed is enough."""
    return tlora_draw(site, np.broadcast_to(0.0, (site.I, site.O)), config)


def tensors_of(adapter: Adapter, save_projection: bool) -> dict[str, Array]:
    """The adapter's arrays by PEFT's names. Raises InputError for another method than TLoRA, and without
    ``save_projection`` for an A or C that the seed does not draw."""
    config = adapter.config
    tensors: dict[str, Array] = {}
    if config.method != "tlora":
        raise InputError(f"the method is {config.method!r}, expected 'tlora'; PEFT has methods of its own")
    for name, matrix in adapter.matrices.items():
        A, B, C, alpha = (adapter.arrays[f"{name}.{local}"] for local in ("A", "B", "C", "alpha"))
        held = {"B": B, "alpha": np.reshape(alpha, 1)}
        if save_projection:
            held |= {"A": A, "C": C}
        else:
            start = drawn(config.site(name, *matrix.shape), config)
            for local, array in (("A", A), ("C", C)):
                if not np.array_equal(start[local].astype(array.dtype), array):
                    raise InputError(f"{name}.{local} is not what seed {config.seed} draws: use save_projection=True")
            held["mark"] = marks(start["A"], start["C"])
        tensors |= {f"{PREFIX}{name}.tlora_{local}": array for local, array in held.items()}
    return tensors


def config_of(adapter: Adapter, modules_to_save: list[str], save_projection: bool) -> dict[str, Any]:
    """adapter_config.json. The targets are a regular expression of full names: PEFT takes the names of a list as ends
    of names, which could match a module that was not adapted."""
    config = adapter.config
    ranks = {name: config.rank_of(name) for name in adapter.matrices}
    return {
        "peft_type": "TLORA",
        "inference_mode": True,
        "r": config.rank,
        "target_modules": "|".join(re.escape(name) for name in adapter.matrices),
        "rank_pattern": {f"^{re.escape(name)}": R for name, R in ranks.items() if config.rank != R},
        "tlora_dropout": config.dropout,
        "init_weights": True if config.origin == "W0" else config.init,
        "projection_prng_key": config.seed,
        "save_projection": save_projection,
        "modules_to_save": modules_to_save or None,
    }


def adapter_of(
    config: Mapping[str, Any], tensors: Mapping[str, Array], weights: Mapping[str, Array], conv1d: bool
) -> Adapter:
    """The adapter of a folder's configuration and tensors on a model whose linear layers have these ``weights``, W0
    (I, O) by name. Raises InputError for what is no TLoRA, does not fit or is not drawn as it was."""
    kind = config.get("peft_type")
    if kind != "TLORA":
        raise InputError(f"holds an adapter of PEFT's method {kind!r}, expected 'TLORA'")
    if config.get("bias", "none") != "none":
        raise InputError(f"trained biases (bias={config['bias']!r}), which an adapter of tlora_ref leaves as they are")
    held: dict[str, dict[str, Array]] = {}
    also: dict[str, Array] = {}
    for key, array in tensors.items():
        name, _, local = key.removeprefix(PREFIX).rpartition(".")
        if local.startswith("tlora_"):
            held.setdefault(name, {})[local.removeprefix("tlora_")] = array
        else:
            also[key.removeprefix(PREFIX)] = array
    check_numbers(also)
    ranks = {name: _rank(name, arrays, weights) for name, arrays in held.items()}
    if not ranks:
        raise InputError("adapts no matrix")
    init, r = config.get("init_weights", True), config["r"]
    adapter = AdapterConfig(
        "tlora",
        r,
        tuple(ranks),
        dropout=config.get("tlora_dropout", 0.0),
        init="released" if isinstance(init, bool) else init,
        seed=config.get("projection_prng_key", 0),
        ranks=tuple((name, R) for name, R in ranks.items() if r != R),
    )
    arrays = {}
    for name, given in held.items():
        site = adapter.site(name, *weights[name].shape)
        complete = given | _projection(site, adapter, given)
        expected = {"A": (site.I, site.R), "B": (site.R, site.R), "C": (site.R, site.O), "alpha": (1,)}
        for local, shape in expected.items():
            if local not in complete or complete[local].shape != shape:
                found = complete[local].shape if local in complete else "missing"
                raise InputError(f"{name}.tlora_{local} is {found}, expected {shape}")
            arrays[f"{name}.{local}"] = complete[local].reshape(()) if local == "alpha" else complete[local]
    check_numbers(arrays)
    names = {name.rpartition(".")[0] for name in also}
    return Adapter(
        config=adapter,
        matrices={name: matrix_beneath(weights[name].shape, weights[name]) for name in held},
        arrays=arrays,
        also=also,
        owners={o: tuple(n.rpartition(".")[2] for n in also if n.rpartition(".")[0] == o) for o in sorted(names)},
        conv1d=conv1d,
    )


def _rank(name: str, arrays: Mapping[str, Array], weights: Mapping[str, Array]) -> int:
    if name not in weights:
        raise InputError(f"adapts {name}, which is no linear layer of the model")
    B = arrays.get("B")
    if B is None or B.ndim != 2:
        raise InputError(f"{name}.tlora_B is {'missing' if B is None else B.shape}, expected (R, R)")
    return int(B.shape[0])


def _projection(site: Site, config: AdapterConfig, given: Mapping[str, Array]) -> dict[str, Array]:
    """A and C drawn again, where the folder has none. Raises InputError if they are not those of the training."""
    if "A" in given and "C" in given:
        return {}
    if not config.from_seed:
        raise InputError(f"has not both A and C of {site.name}, which follow from {config.origin} and from no seed")
    start, mark = drawn(site, config), given.get("mark")
    if mark is None:
        raise InputError(f"has neither A and C of {site.name} nor their fingerprints")
    if not np.array_equal(marks(start["A"], start["C"]), mark):
        raise InputError(f"A and C of {site.name}, drawn from seed {config.seed}, are not those of the training")
    dtype = array_dtype(given["B"])
    if dtype not in ("float32", "float64"):
        raise InputError(f"{site.name}.tlora_B is {dtype}, expected float32 or float64")
    return {local: start[local].astype(dtype) for local in ("A", "C")}
