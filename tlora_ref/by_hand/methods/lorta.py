"""LoRTA: one small store, trained for all layers, heads and matrices of a model at once.

Paper       I. Hounie et al., arXiv 2410.04060.
Equation    y = x W0 + b + s dropout(x) dW,   s = lora_alpha / R a constant, and for matrix m of layer l with H heads
            dW = [A diag(c_1) B | ... | A diag(c_H) B],   c_h = heads[h] * layer[l] * matrix[m]
            for query, key and value, whose heads are side by side in what they give; the transpose of it for output,
            whose heads are side by side in what it reads.
Arrays      A (D, R), B (R, K), heads (H, R), layer (L, R) and matrix (P, R) are trained, and shared: there is one of
            each in the whole model. D is its width, K = D / H that of a head, L the layers up to the highest adapted
            one, P the kinds of matrix up to the last adapted one, in the order of KINDS: 4 of attention.
Start       A uniform in +-1 / sqrt(R), as the released code has it (a fan-in of R and not of D), the three tables in
            +-sqrt(6 / R), B = 0: at first nothing changes.
Twin        by_autograd/methods/lorta.py.
Checked by  tests/test_kernels.py, tests/test_family.py and tests/test_laws_of_relatives.py.

Special to it: the update is a tensor of five axes, D x K x heads x layers x matrices, decomposed (CP) into R products
of five vectors. A matrix's dW is A times a matrix that the rest makes, so it has rank R at most, and the layer is
LoRA's: ``lorta_view`` makes LoRA's two factors out of the store, and ``lorta_scatter`` takes their gradients back to
it, where those of all matrices add up.

Readings. The released code uses the same orientation for all four matrices, by which the heads of query, key and value
are on the side of the input; shapes agree, so nothing shows it. The intended one is here. A matrix that is not D x D is
outside the paper: it has the corner of A that it needs, heads of ceil(width / H) columns, and what is too many cut off.
Layer and kind of a matrix are read from its name (``place``).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from math import ceil, sqrt
from typing import TYPE_CHECKING

import numpy as np

from ...draws import uniform
from ...methods import SHARED, Arrays, Kernel, Method, Site
from ...shapes import shaped
from ..ops import Array, Cache, Grads, wanted
from . import lora

if TYPE_CHECKING:
    from ...config import AdapterConfig

# --- where a matrix is -----------------------------------------------------------------------------

KINDS = (
    ("query", "q_proj", "q_lin", "q"),
    ("key", "k_proj", "k_lin", "k"),
    ("value", "v_proj", "v_lin", "v"),
    ("output", "attention.output.dense", "o_proj", "out_proj", "out_lin", "o"),
    ("ffn_in", "intermediate.dense", "up_proj", "fc1", "lin1"),
    ("ffn_out", "output.dense", "down_proj", "fc2", "lin2"),
    ("",),
)
"""The names of a matrix, by kind; the last kind is every other name."""

OUTPUT = 3
"""The kind whose heads are on the side of the input."""


def place(name: str) -> tuple[int, int]:
    """(layer, kind) of a matrix by its full name: ``layers.3.query`` and ``encoder.layer.3.attention.self.query`` are
    (3, 0). The layer is the first number in the name, 0 where there is none."""
    number = re.search(r"(?<![^.])\d+(?![^.])", name)
    kind = next(
        kind for kind, names in enumerate(KINDS) if any(f".{name}".endswith(f".{end}") or not end for end in names)
    )
    return int(number.group()) if number else 0, kind


def lorta_sizes(site: Site) -> dict[str, int]:
    """The sizes of the letters of the store, as this matrix needs them."""
    layer, kind = place(site.name)
    width, headed = (site.O, site.I) if kind == OUTPUT else (site.I, site.O)
    return {"D": width, "H": site.heads, "K": ceil(headed / site.heads), "L": layer + 1, "P": kind + 1}


def lorta_draw(site: Site, W0_IO: Array, config: AdapterConfig) -> dict[str, Array]:
    """Nothing: a matrix has no array of its own."""
    return {}


def lorta_draw_shared(sites: Sequence[Site], config: AdapterConfig) -> dict[str, Array]:
    """The store at the start."""
    drawn = {}
    for full, shape in METHOD.shared_shapes(sites).items():
        base, R = full.rpartition(".")[2], shape[1]
        drawn[base] = uniform(config.seed, f"{SHARED}.{base}", shape, 1 / sqrt(R) if base == "A" else sqrt(6 / R))
    return drawn | {"B": np.zeros(METHOD.shared_shapes(sites)[f"{SHARED}.B"])}


# --- the factor that a matrix's place makes --------------------------------------------------------


@shaped
def cp_factor_fwd(B_RK: Array, heads_HR: Array, layer_R: Array, matrix_R: Array) -> tuple[Array, Cache]:
    """F (R, H K) = [diag(c_1) B | ... | diag(c_H) B],   c_h = heads[h] * layer * matrix; arrays and tensors alike."""
    # c = heads * layer * matrix,   F[:, h, :] = c_h B
    c_HR = heads_HR * (layer_R * matrix_R)
    F_RHK = c_HR.T[:, :, None] * B_RK[:, None, :]
    return F_RHK.reshape(len(B_RK), -1), (B_RK, heads_HR, layer_R, matrix_R)


def cp_factor_bwd(dF_RD: Array, cache: Cache, wrt: Collection[str] | None = None) -> Grads:
    """{"B", "heads", "layer", "matrix"}"""
    B_RK, heads_HR, layer_R, matrix_R = cache
    want, grads = wanted(wrt, "B", "heads", "layer", "matrix"), {}
    dF_RHK = dF_RD.reshape(len(B_RK), len(heads_HR), -1)
    # dB = sum over heads of c_h dF_h
    if "B" in want:
        c_HR = heads_HR * (layer_R * matrix_R)
        grads["B"] = (c_HR.T[:, :, None] * dF_RHK).sum(axis=1)
    # dc = sum over the columns of a head of B dF;   dheads = dc * layer * matrix, and so on around
    dc_HR = (dF_RHK * B_RK[:, None, :]).sum(axis=2).T
    if "heads" in want:
        grads["heads"] = dc_HR * (layer_R * matrix_R)
    if "layer" in want:
        grads["layer"] = (dc_HR * heads_HR).sum(axis=0) * matrix_R
    if "matrix" in want:
        grads["matrix"] = (dc_HR * heads_HR).sum(axis=0) * layer_R
    return grads


def own_part(arrays: Arrays, site: Site) -> tuple[Arrays, dict[str, tuple[slice | int, ...]]]:
    """What a matrix reads of the store, by base, and where in each array that is."""
    size, R, (layer, kind) = lorta_sizes(site), slice(site.R), place(site.name)
    where: dict[str, tuple[slice | int, ...]] = {
        "A": (slice(size["D"]), R),
        "B": (R, slice(size["K"])),
        "heads": (slice(size["H"]), R),
        "layer": (layer, R),
        "matrix": (kind, R),
    }
    return {base: arrays[base][index] for base, index in where.items()}, where


def lorta_view(arrays: Arrays, site: Site) -> Arrays:
    """LoRA's factors for one matrix: A and F, or for output F^T and A^T. Of arrays and tensors alike."""
    part, _ = own_part(arrays, site)
    F_RD = cp_factor_fwd(part["B"], part["heads"], part["layer"], part["matrix"])[0]
    if place(site.name)[1] == OUTPUT:
        return {"A_IR": F_RD[:, : site.I].T, "B_RO": part["A"].T}
    return {"A_IR": part["A"], "B_RO": F_RD[:, : site.O]}


def lorta_scatter(grads: Grads, arrays: Arrays, site: Site) -> Grads:
    """The gradients of the store, from those of LoRA's factors on one matrix; 0 where this matrix does not read."""
    part, where = own_part(arrays, site)
    F_RD, c_factor = cp_factor_fwd(part["B"], part["heads"], part["layer"], part["matrix"])
    turned = place(site.name)[1] == OUTPUT
    dA_DR, dkept_RD = (grads["B"].T, grads["A"].T) if turned else (grads["A"], grads["B"])
    # columns of F that were cut off were not read
    dF_RD = np.zeros(F_RD.shape, dtype=dkept_RD.dtype)
    dF_RD[:, : dkept_RD.shape[1]] = dkept_RD
    found = {}
    for base, gradient in {"A": dA_DR, **cp_factor_bwd(dF_RD, c_factor)}.items():
        found[base] = np.zeros(arrays[base].shape, dtype=gradient.dtype)
        found[base][where[base]] = gradient
    return found


CP_FACTOR = Kernel("cp_factor", cp_factor_fwd, cp_factor_bwd, ("B", "heads", "layer", "matrix"), "RD", exact=True)

STORE = {"A": "DR", "B": "RK", "heads": "HR", "layer": "LR", "matrix": "PR"}

METHOD = Method(
    name="lorta",
    label="LoRTA",
    paper="arXiv 2410.04060",
    kernel=lora.METHOD.kernel,
    trained=tuple(STORE),
    shared=tuple(STORE),
    draw=lorta_draw,
    draw_shared=lorta_draw_shared,
    delta_w=lora.lora_delta_w,
    view=lorta_view,
    scatter=lorta_scatter,
    letters=STORE,
    sizes_of=lorta_sizes,
    targets=("query", "key", "value", "output"),
)
