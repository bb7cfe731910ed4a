"""The claims of the TLoRA paper, and what was measured about each.

counting.py   trained numbers and the cost of a layer: arithmetic, and the measurements of bench
accuracy.py   what the trained numbers buy: accuracy, alpha, dropout, overfitting
dynamics.py   what training does to alpha and B
likeness.py   TLoRA's updates beside LoRA's
words.py      how a measurement reads

Source      the claims are in paper.py, in our own words; a verdict follows by the rules of verdicts.py.
Checked by  tests/test_audit.py: every verdict on constructed measurements.

A claim's function takes the measurements of jobs/audit.py (plain numbers, lists with one value per seed).
"""

from __future__ import annotations

from collections.abc import Callable

from ..verdicts import Claim, Row, rows
from .accuracy import alpha_needed, comparable, dropout, glue, overfitting
from .counting import counts, overhead
from .dynamics import alpha_and_B, alpha_kinds, alpha_layers, gaussian, norm_layers, stable_norms
from .likeness import cosine_adapted, cosine_updates, eigenvalues_like_lora, norms_like_lora
from .words import Measured

CLAIMS: tuple[Callable[[Measured], Claim], ...] = (
    counts, overhead, glue, comparable, alpha_needed, dropout, overfitting,
    gaussian, stable_norms, norm_layers, alpha_layers, alpha_kinds, alpha_and_B,
    norms_like_lora, eigenvalues_like_lora, cosine_adapted, cosine_updates,
)  # fmt: skip


def judge(measured: Measured, shorter: Measured | None = None) -> list[Row]:
    """Every claim with its verdict. ``shorter``: the same measurements on runs of half the length."""
    half = None if shorter is None else [claim(shorter) for claim in CLAIMS]
    return rows([claim(measured) for claim in CLAIMS], half)
