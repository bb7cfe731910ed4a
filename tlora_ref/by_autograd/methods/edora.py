"""EDoRA in PyTorch: DoRA's trained column lengths on LoRA-XS's small trained core.

Paper       arXiv 2501.12067.
Equation    y = x (V * m / n) + b,   V = W0 + s A M C,   n (O,) the column norms of V;  M (R, R) and m (O,) train.
Twin        by_hand/methods/edora.py, same names with ``_fwd``; how the arrays start stands there.
Checked by  tests/test_twin.py.
"""

from __future__ import annotations

from torch import Tensor

from ...shapes import shaped
from ..twin import Drop, Twin, frozen_linear, masked
from .dora import column_norm, rescale, rescaled, without_bias
from .lora_xs import tri_delta_w, tri_update


@shaped
def edora_linear(
    x_NI: Tensor,
    W0_IO: Tensor,
    b_O: Tensor | None,
    A_IR: Tensor,
    M_RS: Tensor,
    C_SO: Tensor,
    magnitude_O: Tensor,
    scale: float,
    norm_O: Tensor,
    keep_NI: Tensor | None = None,
) -> Tensor:
    """EDoRA's layer (arXiv 2501.12067): V = W0 + s A M C, M (R, S) and m (O,) trained; norm (O,) is a constant.
    Raises ShapeError."""
    # y0 = x V,   y = y0 * m / n + b
    update_NO = tri_update(masked(keep_NI)(x_NI), A_IR.detach(), M_RS, C_SO.detach(), scale)
    y_NO = rescale(frozen_linear(x_NI, W0_IO, None) + update_NO, magnitude_O, norm_O.detach())
    return y_NO if b_O is None else y_NO + b_O.detach()


def edora_layer(
    x_NI: Tensor,
    y_NO: Tensor,
    W0_IO: Tensor,
    b_O: Tensor | None,
    drop: Drop,
    A_IR: Tensor,
    M_RS: Tensor,
    C_SO: Tensor,
    magnitude_O: Tensor,
    scale: float,
) -> Tensor:
    """The adapted layer's output from the base's finished output y (..., O); the norm is a constant."""
    n_O = column_norm(W0_IO + tri_delta_w(W0_IO, A_IR, M_RS, C_SO, scale)).detach()
    update_NO = tri_update(drop(x_NI), A_IR.detach(), M_RS, C_SO.detach(), scale)
    # y + (x W0 + update) * m / n - x W0,   where y = x W0 + b
    y0_NO = without_bias(y_NO, b_O, magnitude_O)
    return y_NO + (rescale(y0_NO + update_NO, magnitude_O, n_O) - y0_NO)


def edora_constants(
    W0_IO: Tensor, A_IR: Tensor, M_RS: Tensor, C_SO: Tensor, magnitude_O: Tensor, scale: float
) -> dict[str, Tensor]:
    """{"norm_O"}: the column norms of V = W0 + s A M C, which edora_linear takes as a constant."""
    return {"norm_O": column_norm(W0_IO + tri_delta_w(W0_IO, A_IR, M_RS, C_SO, scale))}


@shaped
def edora_delta_w(W0_IO: Tensor, A_IR: Tensor, M_RS: Tensor, C_SO: Tensor, magnitude_O: Tensor, scale: float) -> Tensor:
    """dW = V * m / n - W0, (I, O)."""
    return rescaled(W0_IO + tri_delta_w(W0_IO, A_IR, M_RS, C_SO, scale), magnitude_O) - W0_IO


TWIN = Twin(edora_linear, edora_layer, edora_delta_w, edora_constants)
