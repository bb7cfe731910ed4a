"""Every kernel pair by its name: what the property tests, the suite of checks and the mutants run over.

Equation    none of its own: the kernels have theirs, in ops.py and methods/.
Twin        by_autograd/kernels.py.
Checked by  tests/test_kernels.py and tests/test_house.py.

A method's kernel is in its METHOD already and is taken from there; the rest is the encoder's ops, and the pieces that
some methods are made of. A kernel's arguments are read from its signature (methods.py).
"""

from __future__ import annotations

from ..methods import Kernel
from . import ops
from .methods import METHODS, bottleneck, dora, hta, lora_xs, lorta, soda

OPS = (
    Kernel("linear", ops.linear_fwd, ops.linear_bwd, ("x", "W", "b"), "NO", exact=True),
    Kernel("frozen_linear", ops.frozen_linear_fwd, ops.frozen_linear_bwd, ("x",), "NO", exact=True),
    Kernel("layer_norm", ops.layer_norm_fwd, ops.layer_norm_bwd, ("x", "gamma", "beta"), "ND"),
    Kernel("gelu", ops.gelu_fwd, ops.gelu_bwd, ("x",), "NF"),
    Kernel("tanh", ops.tanh_fwd, ops.tanh_bwd, ("x",), "NF"),
    Kernel("softmax", ops.softmax_fwd, ops.softmax_bwd, ("x",), "NV"),
    Kernel(
        "attention",
        ops.attention_fwd,
        ops.attention_bwd,
        ("q", "k", "v"),
        "NTD",
        options={"heads": ("H",), "causal": (False, True)},  # "H": tied to the letters, D = H * K
    ),
    Kernel("embedding", ops.embedding_fwd, ops.embedding_bwd, ("W",), "ND"),
    Kernel("mean_pool", ops.mean_pool_fwd, ops.mean_pool_bwd, ("x",), "ND"),
    Kernel("first_token", ops.first_token_fwd, ops.first_token_bwd, ("x",), "ND"),
    Kernel("cross_entropy", ops.cross_entropy_fwd, ops.cross_entropy_bwd, ("logits",), ""),
)

PIECES = (
    lora_xs.TRI,
    dora.COLUMN_NORM,
    dora.RESCALE,
    bottleneck.RELU,
    hta.REFLECT,
    hta.REFLECT_UNIT,
    soda.KRON,
    lorta.CP_FACTOR,
)

KERNELS: dict[str, Kernel] = {kernel.name: kernel for kernel in (*(m.kernel for m in METHODS.values()), *OPS, *PIECES)}
