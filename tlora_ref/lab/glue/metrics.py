"""What counts as a result on a GLUE task.

Equation    accuracy   share of predictions that are the label
            F1         2 TP / (2 TP + FP + FN), positive = label 1
            Matthews   (TP TN - FP FN) / sqrt((TP + FP) (TP + FN) (TN + FP) (TN + FN)) for two classes
Checked by  tests/test_glue.py.

A head of three classes on a task of two may predict the third: that is wrong for accuracy, "not label 1" for F1,
and a class of its own in Matthews' coefficient (J. Gorodkin's for more than two classes, as scikit-learn has it).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def score(metrics: Sequence[str], labels_N: np.ndarray, predicted_N: np.ndarray) -> dict[str, float]:
    """Each metric by its key, in [0, 1] (Matthews in [-1, 1]; 0 where one side is of one class only)."""
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    # scikit-learn's value too, but there with a warning
    constant = len(np.unique(labels_N)) == 1 or len(np.unique(predicted_N)) == 1
    ways = {
        "accuracy": lambda: accuracy_score(labels_N, predicted_N),
        "f1": lambda: f1_score(labels_N == 1, predicted_N == 1, zero_division=0.0),
        "matthews": lambda: 0.0 if constant else matthews_corrcoef(labels_N, predicted_N),
    }
    return {metric: float(ways[metric]()) for metric in metrics}
