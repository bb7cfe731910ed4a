"""DoRA in PyTorch: LoRA turns the columns of the weight, and a trained vector sets their lengths.

Paper       arXiv 2402.09353, equation 5; the detached norm is its section 4.3.
Equation    y = x (V * m / n) + b,   V = W0 + s A B,   n (O,) the column norms of V;  A, B and m (O,) train.
Twin        by_hand/methods/dora.py, same names with ``_fwd``; how the arrays start stands there.
Checked by  tests/test_twin.py, and tests/test_peers.py against Hugging Face PEFT.
"""

from __future__ import annotations

from torch import Tensor

from ...shapes import shaped
from ..twin import Drop, Twin, frozen_linear, masked
from .lora import lora_delta_w

# --- columns brought to a trained length -----------------------------------------------------------


@shaped
def column_norm(V_IO: Tensor) -> Tensor:
    """n (O,): the Euclidean norm of each column of V, one output unit each."""
    return (V_IO * V_IO).sum(dim=0).sqrt()


@shaped
def rescale(y0_NO: Tensor, magnitude_O: Tensor, norm_O: Tensor) -> Tensor:
    """y = y0 * m / n: a layer's columns brought from length n to length m.  y0 (..., O), m and n (O,)."""
    return y0_NO * (magnitude_O / norm_O)


def rescaled(V_IO: Tensor, magnitude_O: Tensor) -> Tensor:
    """V * m / n: the columns of V (I, O) brought to the lengths m (O,)."""
    return V_IO * (magnitude_O / column_norm(V_IO))


# --- DoRA ------------------------------------------------------------------------------------------


@shaped
def dora_linear(
    x_NI: Tensor,
    W0_IO: Tensor,
    b_O: Tensor | None,
    A_IR: Tensor,
    B_RO: Tensor,
    magnitude_O: Tensor,
    scale: float,
    norm_O: Tensor | None = None,
    keep_NI: Tensor | None = None,
) -> Tensor:
    """DoRA's layer (arXiv 2402.09353, eq. 5): A (I, R), B (R, O), m (O,) trained. norm (O,): the column norms as
    a constant, as released; None: computed here and differentiated. Raises ShapeError."""
    # y0 = x V,   y = y0 * m / n + b
    u_NR = masked(keep_NI)(x_NI) @ A_IR
    y0_NO = frozen_linear(x_NI, W0_IO, None) + (scale * u_NR) @ B_RO
    n_O = column_norm(W0_IO.detach() + lora_delta_w(W0_IO, A_IR, B_RO, scale)) if norm_O is None else norm_O.detach()
    y_NO = rescale(y0_NO, magnitude_O, n_O)
    return y_NO if b_O is None else y_NO + b_O.detach()


def dora_full_layer(
    x_NI: Tensor,
    y_NO: Tensor,
    W0_IO: Tensor,
    b_O: Tensor | None,
    drop: Drop,
    A_IR: Tensor,
    B_RO: Tensor,
    magnitude_O: Tensor,
    scale: float,
) -> Tensor:
    """The adapted layer's output from the base's finished output y (..., O); the norm is differentiated."""
    n_O = column_norm(W0_IO.detach() + lora_delta_w(W0_IO, A_IR, B_RO, scale))
    return _rescaled_output(x_NI, y_NO, b_O, drop, A_IR, B_RO, magnitude_O, scale, n_O)


def dora_layer(
    x_NI: Tensor,
    y_NO: Tensor,
    W0_IO: Tensor,
    b_O: Tensor | None,
    drop: Drop,
    A_IR: Tensor,
    B_RO: Tensor,
    magnitude_O: Tensor,
    scale: float,
) -> Tensor:
    """The same with the norm a constant of the backward, as released."""
    n_O = column_norm(W0_IO + lora_delta_w(W0_IO, A_IR, B_RO, scale)).detach()
    return _rescaled_output(x_NI, y_NO, b_O, drop, A_IR, B_RO, magnitude_O, scale, n_O)


def _rescaled_output(
    x_NI: Tensor,
    y_NO: Tensor,
    b_O: Tensor | None,
    drop: Drop,
    A_IR: Tensor,
    B_RO: Tensor,
    magnitude_O: Tensor,
    scale: float,
    n_O: Tensor,
) -> Tensor:
    # y + (x W0 + update) * m / n - x W0,   where y = x W0 + b
    y0_NO = without_bias(y_NO, b_O, magnitude_O)
    return y_NO + (rescale(y0_NO + (scale * (drop(x_NI) @ A_IR)) @ B_RO, magnitude_O, n_O) - y0_NO)


def without_bias(y_NO: Tensor, b_O: Tensor | None, like: Tensor) -> Tensor:
    """x W0 from y = x W0 + b, in the dtype of ``like``."""
    y0_NO = y_NO.to(like.dtype)
    return y0_NO if b_O is None else y0_NO - b_O


def dora_constants(W0_IO: Tensor, A_IR: Tensor, B_RO: Tensor, magnitude_O: Tensor, scale: float) -> dict[str, Tensor]:
    """{"norm_O"}: the column norms of V = W0 + s A B, which dora_linear takes as a constant."""
    return {"norm_O": column_norm(W0_IO.detach() + lora_delta_w(W0_IO, A_IR, B_RO, scale))}


@shaped
def dora_delta_w(W0_IO: Tensor, A_IR: Tensor, B_RO: Tensor, magnitude_O: Tensor, scale: float) -> Tensor:
    """dW = V * m / n - W0, (I, O)."""
    return rescaled(W0_IO + lora_delta_w(W0_IO, A_IR, B_RO, scale), magnitude_O) - W0_IO


DETACHED = Twin(dora_linear, dora_layer, dora_delta_w, dora_constants)
FULL = Twin(dora_linear, dora_full_layer, dora_delta_w)
