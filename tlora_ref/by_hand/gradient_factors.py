"""TLoRA's frozen factors from a gradient: A and C along the singular vectors of dL/dW0 on given examples.

Equation    D = dL/dW0 = U S V^T,   A = sqrt(I / (3 R)) U_R,   C = sqrt(1 / 3) V_R^T   (factors.py: norms and sources)
            At B = 0 the gradient of B is then A^T D C^T = sqrt(I / (9 R)) S_R, diagonal: of all factors of these norms
            with orthogonal columns none give B a larger gradient.
Source      The construction is LoRA-SB's (arXiv 2411.19557); this start is TLoRA's.
Twin        by_autograd/gradient_factors.py, for any torch model, without ever making D.
Checked by  tests/test_factors.py.

    factors = gradient_factors(base, adapter, [(inputs, labels)])
    model = attach(base, adapter, factors=factors)              # adapter.init is "gradient"
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..config import AdapterConfig
from ..factors import along_singular_vectors
from ..model import Model, sites
from ..shapes import InputError
from .encoder import loss_and_grads

Array = np.ndarray


def gradient_factors(
    base: Model, adapter: AdapterConfig, batches: Sequence[tuple[Any, ...]]
) -> dict[str, tuple[Array, Array]]:
    """(A, C) of every matrix by its name. One gradient is in memory at a time.

    ``batches``: (inputs, labels), and mask and token types where there are some, as in training. Raises InputError for
    no batch, a model that has an adapter, a matrix that the loss does not depend on.
    """
    if base.adapter is not None:
        raise InputError(f"the model has a {base.adapter.method} adapter, expected the base that it is to sit on")
    if len(batches) == 0:
        raise InputError("batches is empty, expected at least one to take the gradient on")
    found = {}
    for site in sites(base.config, adapter):
        dW0_IO = weight_gradient(base, f"{site.name}.W", batches)
        if not dW0_IO.any():
            raise InputError(f"the gradient of {site.name}.W is zero, expected a loss that depends on it")
        found[site.name] = along_singular_vectors(dW0_IO, site.R)
    return found


def weight_gradient(base: Model, name: str, batches: Sequence[tuple[Any, ...]]) -> Array:
    """dL/dW (I, O) of the mean loss over all examples of all batches, of one matrix by its full name."""
    only = base.training({name})
    total, examples = np.zeros(base.params[name].shape), 0
    for inputs, labels_N, *rest in batches:
        mask_NT, types_NT = [*rest, None, None][:2]
        _, grads, _ = loss_and_grads(only, inputs, labels_N, mask_NT, None, types_NT)
        total += len(labels_N) * grads[name]
        examples += len(labels_N)
    return total / examples
