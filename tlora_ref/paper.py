"""What the TLoRA paper printed: figures to hold measurements against.

Source      T. Islam, arXiv 2504.18735 (PRICAI 2025), Tables 1 and 3.
Checked by  tests/test_audit.py, tests/test_glue.py.
"""

from __future__ import annotations

from .lab.glue.tasks import TASKS

TABLE_1 = {8: (3_120, 786_432, 252), 16: (12_336, 1_572_864, 128), 32: (49_200, 3_145_728, 64)}
"""Rank -> trained by TLoRA, trained by LoRA, their ratio, as printed."""

TABLE_3 = {
    "Adapter-P 3M": (96.1, 94.8, 83.8, 90.2),
    "Adapter-P 0.8M": (96.6, 94.8, 80.1, 89.7),
    "Adapter-H 6M": (96.2, 94.7, 83.4, 88.7),
    "Adapter-H 0.8M": (96.3, 94.7, 72.9, 87.7),
    "LoRA-FA 3.7M": (96.0, 94.4, 86.1, 90.0),
    "LoRA 0.8M": (96.2, 94.8, 85.2, 90.2),
    "VeRA 0.061M": (96.1, 94.4, 85.9, 90.9),
    "TLoRA 0.049M": (95.3, 92.1, 87.5, 89.3),
}
"""Accuracies in % on SST-2, QNLI, RTE, MRPC, as printed."""

VALIDATION = {TASKS[name].title: TASKS[name].validation for name in ("sst2", "qnli", "rte", "mrpc")}
"""Examples in the validation sets of GLUE, in the order of Table 3."""
