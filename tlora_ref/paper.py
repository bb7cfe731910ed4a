"""What the TLoRA paper and its released code and logs say: figures and claims to hold measurements against.

Source      T. Islam, arXiv 2504.18735 (PRICAI 2025): the layer is section 2.2, the initialisation 2.4, the recipe
            section 3, the results section 4. The released code is cited where it says what the paper does not.
Checked by  tests/test_audit.py, tests/test_glue.py.

Nothing here was measured by this project, and no other file holds a copy.
"""

from __future__ import annotations

# --- printed -------------------------------------------------------------------------------------

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

VALIDATION = {"SST-2": 872, "QNLI": 5_463, "RTE": 277, "MRPC": 408}
"""Examples in the validation sets of GLUE (A. Wang et al., arXiv 1804.07461), in the order of Table 3."""

PRINTED_RATE = 0.0
"""The learning rate of Table 2. The released code has 1e-3."""

PRINTED_AVERAGE = 81.48
"""TLoRA's average accuracy in %, in the text of section 4."""

PRINTED_RATIO_TO_FULL = 252
"""How many times fewer numbers than full fine-tuning TLoRA trains, in the text on Table 1."""

PRINTED_MATRICES = ("query", "value", "output")
"""The matrices of a layer that are adapted, in the text."""

# --- claimed -------------------------------------------------------------------------------------

CLAIMS = {
    "trained counts": (
        "On query and value of RoBERTa-large TLoRA trains 3,120 / 12,336 / 49,200 numbers at r = 8 / 16 / 32, LoRA "
        "786,432 / 1,572,864 / 3,145,728: 252 / 128 / 64 times as many.",
        "Table 1",
    ),
    "minimal overhead": ("TLoRA adds minimal computational overhead.", "abstract"),
    "GLUE": (
        "On four GLUE tasks RoBERTa-large reaches 91.0 % on average with TLoRA's 0.049M trained numbers, against "
        "91.6 % with LoRA's 0.8M.",
        "Table 3",
    ),
    "comparable accuracy": (
        "TLoRA performs comparably to LoRA with far fewer trained numbers.",
        "abstract, Table 3",
    ),
    "alpha matters": ("The learned, layer-wise alpha adds to what B can do.", "abstract"),
    "dropout on the update": (
        "Dropout of 0.5 on the scaled update belongs to the recipe: it should help TLoRA to generalise.",
        "section 3",
    ),
    "no overfitting": ("Training and validation loss fall together: TLoRA does not overfit.", "figure 3"),
    "B Gaussian-like": (
        "The entries of B, all zero at the start, become Gaussian-like in training.",
        "abstract, figure 4",
    ),
    "norms settle": (
        "The Frobenius norm of B grows early in training and is stable towards the end.",
        "abstract, figure 5",
    ),
    "B over layers": ("By how much the norm of B grows depends on the layer.", "figure 5"),
    "alpha over layers": (
        "The learned alpha varies across layers, which shows how much each needs to adapt.",
        "abstract, figure 6",
    ),
    "alpha of q and v": ("The learned alpha of query and value matrices differ.", "figure 6"),
    "alpha and B": ("B is larger where alpha is larger.", "figures 5 and 6"),
    "norms like LoRA's": ("TLoRA's parameter norms resemble LoRA's.", "abstract, figure 7"),
    "eigenvalues like LoRA's": (
        "The adapted matrix has the same distribution of eigenvalues under TLoRA as under LoRA.",
        "abstract, figure 8",
    ),
    "cosine as published": (
        "TLoRA's and LoRA's adapted matrices have a high cosine similarity, so their updates are alike.",
        "abstract, figures 9 and 10",
    ),
    "cosine of the updates": ("TLoRA's updates resemble LoRA's.", "abstract, figure 10"),
}
"""Key -> a claim of the paper in our own words, and where it stands."""

# --- logged --------------------------------------------------------------------------------------

RELEASED_LOGS = {
    "MRPC": {"late_growth": 0.033, "query_minus_value": 0.18, "conserved": -1.6},
    "QNLI": {"late_growth": 0.007, "query_minus_value": 0.37, "conserved": -29.0},
    "SST-2": {"late_growth": 0.014, "query_minus_value": 0.66, "conserved": -22.0},
    "CoLA": {"late_growth": 0.028, "query_minus_value": 0.28, "conserved": -3.8},
}
"""Derived from the logs in the released repository, RoBERTa-large at r = 32, one run a task: by how much of itself
||B||_F changes in the last quarter of the epochs; mean alpha of the query matrices minus that of the value matrices at
the end (over 24 layers, each with p < 1e-4); mean of alpha^2 - ||B||_F^2 at the end, which is 1 at the start."""

RELEASED_CORRELATION = (0.81, 0.96)
"""The smallest and the largest correlation of alpha and ||B||_F over the matrices of a run, over the same logs."""

RELEASED_EPOCHS = {"tlora": 30, "lora": 10}
"""Epochs of the runs behind figures 8 to 10: the LoRA control had a third of TLoRA's."""
