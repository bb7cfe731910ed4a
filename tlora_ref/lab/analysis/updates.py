"""What training did to a weight: dW = W' - W0.

Equation    an adapted matrix: the method's own dW (TLoRA: alpha A B C);   any other: W - W0 of the base.
Checked by  tests/test_analysis.py.
"""

from __future__ import annotations

import numpy as np

from ...by_hand.encoder import delta_w
from ...model import Model
from ...shapes import InputError

Array = np.ndarray


def update(model: Model, base: Model, name: str) -> Array:
    """dW (I, O) of one matrix in float64, whether an adapter stands beside it, is merged into it, or all of it
    was trained. Raises InputError for a matrix that the two models do not share."""
    if f"{name}.W" not in model.params or f"{name}.W" not in base.params:
        raise InputError(f"{name!r} is not a matrix of both models, expected a name as in 'layers.0.query'")
    if name in model.adapted:
        return delta_w(model, name).astype(np.float64)
    return model.params[f"{name}.W"].astype(np.float64) - base.params[f"{name}.W"]
