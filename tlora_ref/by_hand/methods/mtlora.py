"""MTLoRA: LoRA with a small trained map between its two factors, in four forms.

Paper       arXiv 2403.07440 (Neural Networks 199:108642); started as in its NLU code.
Equation    y = x W0 + b + s dropout(x) A M B,   s = lora_alpha / R a constant, and M (R, R) one of
                SHIM  M = C        ICFM  M = C C^T        CTCM  M = D C        DTSM  M = C + D
Arrays      A (I, R), B (R, O), C (R, R) and, for CTCM and DTSM, D (R, R): all trained.
Start       A uniform in +-1 / sqrt(I), B = 0, C and D uniform in +-1 / sqrt(R): at first nothing changes.
Twin        by_autograd/methods/mtlora.py.
Checked by  tests/test_kernels.py and tests/test_family.py.

Special to it: with M = I every form is LoRA. Started at C = D = 0, as one released script does, CTCM and ICFM are at a
point where every gradient is zero. Not to be confused with the multi-task MTLoRA of CVPR 2024.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from math import sqrt
from typing import TYPE_CHECKING

from ...draws import uniform
from ...methods import Kernel, Method, Site
from ...shapes import shaped
from ..ops import Array, Cache, Grads, wanted
from .lora import lora_draw
from .lora_xs import tri_delta_w, tri_linear_bwd, tri_linear_fwd

if TYPE_CHECKING:
    from ...config import AdapterConfig

WITH_D = ("ctcm", "dtsm")
"""The forms whose core is made of two matrices."""


def mtlora_draw(site: Site, W0_IO: Array, config: AdapterConfig, form: str) -> dict[str, Array]:
    """The arrays of one matrix at the start."""
    R = site.R
    core = ("C", "D") if form in WITH_D else ("C",)
    drawn = {base: uniform(config.seed, f"{site.name}.{base}", (R, R), 1 / sqrt(R)) for base in core}
    return lora_draw(site, W0_IO, config) | drawn


@shaped
def mtlora_core_fwd(C_RR: Array, D_RR: Array | None = None, form: str = "shim") -> tuple[Array, Cache]:
    """M (R, R) of the four forms: shim C, icfm C C^T (symmetric, no negative eigenvalue), ctcm D C, dtsm C + D."""
    if form == "shim":
        M_RR = C_RR.copy()
    elif form == "icfm":
        M_RR = C_RR @ C_RR.T
    elif form == "ctcm":
        M_RR = D_RR @ C_RR
    else:
        M_RR = C_RR + D_RR
    return M_RR, (C_RR, D_RR, form)


def mtlora_core_bwd(dM_RR: Array, cache: Cache) -> Grads:
    """{"C"}, and {"D"} for ctcm and dtsm."""
    C_RR, D_RR, form = cache
    # M = C:      dC = dM
    if form == "shim":
        return {"C": dM_RR.copy()}
    # M = C C^T:  dC = (dM + dM^T) C
    if form == "icfm":
        return {"C": (dM_RR + dM_RR.T) @ C_RR}
    # M = D C:    dC = D^T dM,   dD = dM C^T
    if form == "ctcm":
        return {"C": D_RR.T @ dM_RR, "D": dM_RR @ C_RR.T}
    # M = C + D:  dC = dM,   dD = dM
    return {"C": dM_RR.copy(), "D": dM_RR.copy()}


@shaped
def mtlora_linear_fwd(
    x_NI: Array,
    W0_IO: Array,
    b_O: Array | None,
    A_IR: Array,
    B_RO: Array,
    C_RR: Array,
    scale: float,
    D_RR: Array | None = None,
    keep_NI: Array | None = None,
    form: str = "shim",
) -> tuple[Array, Cache]:
    """LoRA with a trained map between its factors, s A M B; M as in mtlora_core_fwd. Raises ShapeError."""
    # M = core(C, D),   y = tri(x; A, M, B)
    M_RR, c_core = mtlora_core_fwd(C_RR, D_RR, form)
    y_NO, c_tri = tri_linear_fwd(x_NI, W0_IO, b_O, A_IR, M_RR, B_RO, scale, keep_NI)
    return y_NO, (c_core, c_tri)


def mtlora_linear_bwd(dy_NO: Array, cache: Cache, wrt: Collection[str] | None = None) -> Grads:
    """{"x", "A", "B", "C"}, and {"D"} for ctcm and dtsm."""
    c_core, c_tri = cache
    form = c_core[2]
    want = wanted(wrt, "x", "A", "B", "C", *(["D"] if form in WITH_D else []))
    # dx, dA, dM and dB from tri, whose names for M and B are M and C
    inner = {"M"} | (want & {"x", "A"}) | ({"C"} if "B" in want else set())
    tri = tri_linear_bwd(dy_NO, c_tri, wrt=inner)
    # dC and dD from dM
    grads = mtlora_core_bwd(tri["M"], c_core)
    for ours, theirs in (("x", "x"), ("A", "A"), ("B", "C")):
        if ours in want:
            grads[ours] = tri[theirs]
    return {key: gradient for key, gradient in grads.items() if key in want}


@shaped
def mtlora_delta_w(
    W0_IO: Array, A_IR: Array, B_RO: Array, C_RR: Array, scale: float, D_RR: Array | None = None, form: str = "shim"
) -> Array:
    """dW = s A M B, (I, O)."""
    return tri_delta_w(W0_IO, A_IR, mtlora_core_fwd(C_RR, D_RR, form)[0], B_RO, scale)


def _method(form: str) -> Method:
    """One of the four forms."""
    two = form in WITH_D
    core = ("C", "D") if two else ("C",)
    fixed = {"form": form} if two else {"form": form, "D_RR": None}
    kernel = Kernel(
        f"mtlora_{form}_linear",
        partial(mtlora_linear_fwd, **fixed),
        mtlora_linear_bwd,
        ("x", "A", "B", *core),
        "NO",
        exact=True,
        required=("D_RR",) if two else (),
    )
    return Method(
        name=f"mtlora_{form}",
        label=f"MTLoRA {form.upper()}",
        paper="arXiv 2403.07440",
        kernel=kernel,
        trained=("A", "B", *core),
        draw=partial(mtlora_draw, form=form),
        delta_w=partial(mtlora_delta_w, form=form),
    )


SHIM, ICFM, CTCM, DTSM = (_method(form) for form in ("shim", "icfm", "ctcm", "dtsm"))
