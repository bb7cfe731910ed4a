"""Trained numbers and the cost of a layer: arithmetic, and the measurements of ``python -m tlora_ref bench``."""

from __future__ import annotations

from ....counts import trained
from ....paper import TABLE_1
from ..verdicts import Claim
from .words import Measured


def counts(m: Measured) -> Claim:
    """Do the counts of Table 1 follow from the formulas?"""
    matrices = [(1024, 1024)] * 48
    ours = {r: (trained("tlora", matrices, r), trained("lora", matrices, r)) for r in TABLE_1}
    return Claim(
        "trained counts",
        "By formula, 48 (r² + 1) and 48 r (1024 + 1024): "
        + "; ".join(f"r = {r}: {t:,} and {lo:,}, ratio {lo / t:.1f}" for r, (t, lo) in ours.items())
        + ".",
        " / ".join(f"{t:,}" for t, _ in ours.values()),
        "All six counts equal, all three ratios equal after rounding.",
        "The counts hold B and alpha of 48 matrices and no classifier head: the released code keeps the head frozen.",
        settled=all(ours[r] == TABLE_1[r][:2] and round(ours[r][1] / ours[r][0]) == TABLE_1[r][2] for r in TABLE_1),
    )


def overhead(m: Measured) -> Claim:
    """What does an adapted layer cost beside the frozen one?"""
    o, bound = m["overhead"], 0.1
    extra = o["flops"] - 1
    times = "; ".join(
        f"{kind}: TLoRA {t['TLoRA'][0]:.2f} (quartiles {t['TLoRA'][1]:.2f} to {t['TLoRA'][2]:.2f}), PEFT's LoRA "
        f"{t['LoRA, PEFT'][0]:.2f}"
        for kind, t in o["times"].items()
    )
    return Claim(
        "minimal overhead",
        f"Forward and backward of one layer of width {o['width']} at r = {o['rank']}: {100 * extra:.1f} % more "
        f"multiplications and additions than the frozen layer. Time over the frozen layer's, one thread of "
        f"{o['processor']}, {times}.",
        f"{100 * extra:.1f} % more operations",
        f"At most {100 * bound:.0f} % more operations than the frozen layer, at RoBERTa-large's width and r = 32.",
        "About 2 r / d, and two of a layer's six matrices are adapted. Time is another matter: small products are "
        "slower an operation than large ones, the more so in bfloat16.",
        settled=extra <= bound,
    )
