"""Where the paper contradicts itself or its released code: slips, which refute nothing.

Source      what is printed is in paper.py; what is right follows from it, or is the released code's.
Checked by  tests/test_audit.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from ...config import EncoderConfig
from ...counts import encoder_size, trained
from ...paper import (
    PRINTED_AVERAGE,
    PRINTED_MATRICES,
    PRINTED_RATE,
    PRINTED_RATIO_TO_FULL,
    TABLE_1,
    TABLE_3,
    VALIDATION,
)
from ...tables import table

ROBERTA = EncoderConfig(
    width=1024, layers=24, heads=16, hidden=4096, time=512, vocab=50_265, classes=3, types=1, pad_id=1, pooler=True
)
"""RoBERTa-large with the three-way MNLI head."""

ROW = "TLoRA 0.049M"


@dataclass(frozen=True)
class Misprint:
    """A slip: where it stands, what is printed there, what is right, and how that is known."""

    where: str
    printed: str
    right: str
    why: str


def misprints() -> list[Misprint]:
    """All of them, from the printed figures."""
    full, tlora = encoder_size(ROBERTA), trained("tlora", [(1024, 1024)] * 48, 8)
    lora = trained("lora", [(1024, 1024)] * 48, 8)
    matrices = len(PRINTED_MATRICES)
    three = trained("tlora", [(1024, 1024)] * 24 * matrices, 32)
    found = [
        Misprint("Table 2", f"learning rate {PRINTED_RATE:g}", "0.001", "the released code; at a rate of 0 nothing "
                 "trains"),
        Misprint("section 4", f"average accuracy {PRINTED_AVERAGE:.2f} %", f"{fmean(TABLE_3[ROW]):.2f} %",
                 "the mean of TLoRA's row of Table 3"),
        Misprint("text on Table 1", f"{PRINTED_RATIO_TO_FULL} times fewer than full fine-tuning",
                 f"{full / tlora:,.0f} times", f"{full:,} over {tlora:,}; {lora / tlora:.0f} is the ratio to LoRA of "
                 "the same rank"),
        Misprint("section 4", "query, value and output projection", "query and value",
                 f"the released code; {matrices} matrices a layer would train {three:,} numbers at r = 32, not "
                 f"{TABLE_1[32][0]:,}"),
    ]  # fmt: skip
    for task in unattainable(TABLE_3[ROW]):
        printed = dict(zip(VALIDATION, TABLE_3[ROW], strict=True))[task]
        found.append(
            Misprint("Table 3", f"{task} {printed:.1f} %", f"{nearest(task, printed):.2f} % is nearest",
                     f"no k / {VALIDATION[task]:,} rounds to it: the released code averages over batches, the last and "
                     "smaller one counted like the others")
        )  # fmt: skip
    return found


def nearest(task: str, accuracy: float) -> float:
    """The accuracy in % nearest to a printed one that k right answers on the validation set can give."""
    n = VALIDATION[task]
    return 100 * round(accuracy / 100 * n) / n


def unattainable(row: Sequence[float]) -> list[str]:
    """The tasks whose printed accuracy rounds from no k / n: no run can have it."""
    return [task for task, v in zip(VALIDATION, row, strict=True) if abs(nearest(task, v) - v) > 0.0501]


def misprints_table(found: Sequence[Misprint]) -> str:
    """For a terminal."""
    return table(["where", "printed", "right"], [[m.where, m.printed, m.right] for m in found])
