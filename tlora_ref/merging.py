"""Merging an adapter into the weights it sits beside, exactly undone or for good.

Equation    W' = W0 + dW, where dW = alpha A B C for TLoRA (arXiv 2504.18735, section 2.2): in evaluation a plain linear
            layer with W' is equal to the adapted one.
Twin        none: both rooms use these functions; ``room`` is the module by_hand or by_autograd.
Checked by  tests/test_encoder.py, tests/test_family.py, tests/test_twin.py.

Everything here is out of place: the given model is unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .model import Model, encoder_shapes
from .room import Room
from .shapes import InputError


def merge(room: Room, model: Model) -> Model:
    """A model whose adapted matrices are W0 + dW and run as plain linear layers, equal in evaluation. The original W0
    is kept, so that ``unmerge`` is exact.

    Raises InputError if there is no adapter, if it is merged already, or if its method cannot be merged.
    """
    updates = _updates(room, model)
    originals = {name: model.params[f"{name}.W"] for name in updates}
    weights = {f"{name}.W": W0_IO + updates[name] for name, W0_IO in originals.items()}
    return replace(model.with_params(weights), merged=originals)


def unmerge(model: Model) -> Model:
    """The model before ``merge``, its weights bit for bit. Raises InputError if nothing is merged."""
    if not model.merged:
        raise InputError("nothing to unmerge: no adapter is merged")
    originals = {f"{name}.W": W0_IO for name, W0_IO in model.merged.items()}
    return replace(model.with_params(originals), merged={})


def fold(room: Room, model: Model) -> Model:
    """A base whose weights are W0 + dW, with the adapter gone and nothing trained: what another adapter can be attached
    to. A chain (COLA, RAC-LoRA, XGBLoRA) is attach, train, fold, and again.

    Raises InputError if there is no adapter or if its method cannot be merged.
    """
    merged = model if model.merged else merge(room, model)
    base: Mapping[str, Any] = {name: merged.params[name] for name in encoder_shapes(model.config)}
    return Model(model.config, base)


def _updates(room: Room, model: Model) -> dict[str, Any]:
    """dW (I, O) of every adapted matrix."""
    if model.adapter is None:
        raise InputError("nothing to merge: the model has no adapter")
    if model.merged:
        raise InputError("the adapter is already merged")
    if not model.method.mergeable:
        raise InputError(f"{model.method.name} cannot be merged: no weight W0 + dW does what it does")
    return {name: room.delta_w(model, name) for name in model.adapted}
