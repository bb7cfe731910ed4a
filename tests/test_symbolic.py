"""TLoRA's identities for matrices of any size, proven symbolically: no numbers, no sizes."""

from __future__ import annotations

import pytest

sympy = pytest.importorskip("sympy")
from sympy import MatrixSymbol, Symbol, Trace, ZeroMatrix, diff, symbols  # noqa: E402

N, I, O, R, S = symbols("N I O R S", integer=True, positive=True)
x, G = MatrixSymbol("x", N, I), MatrixSymbol("G", N, O)  # G = dL/dy, whatever the loss
W0, A, B, C = MatrixSymbol("W0", I, O), MatrixSymbol("A", I, R), MatrixSymbol("B", R, S), MatrixSymbol("C", S, O)
alpha, c = Symbol("alpha"), Symbol("c", nonzero=True)

# <G, y> with y = x W0 + alpha x A B C: its derivatives at a fixed G are those of the loss, by the chain rule
BASE, UPDATE = Trace(G.T * x * W0), Trace(G.T * x * A * B * C)

# what the page of the method says
dB = alpha * (x * A).T * (G * C.T)
dalpha = Trace(B.T * (x * A).T * (G * C.T))
dx = G * W0.T + alpha * (G * C.T) * B.T * A.T


def same(one, other):
    """Are two matrix expressions, or two traces, the same for all sizes?"""
    difference = (one - other).expand().doit()
    if getattr(difference, "is_Matrix", False):
        return difference == ZeroMatrix(*difference.shape)
    return flat(one) == flat(other)


def flat(trace):
    """A trace of products with the scalars in front and the factors in one cyclic order, transposed if that sorts
    first: tr(X Y) = tr(Y X) = tr(Y^T X^T)."""
    scalar, factors = sympy.S.One, []
    for part in sympy.Mul.make_args(trace.doit()):
        if isinstance(part, Trace):
            coefficient, product = part.arg.doit().as_coeff_mmul()
            scalar *= coefficient
            factors = list(product.args if product.is_MatMul else [product])
        else:
            scalar *= part
    both = [factors, [factor.T for factor in reversed(factors)]]
    turns = [tuple(way[i:] + way[:i]) for way in both for i in range(len(way))]
    return sympy.simplify(scalar), min(turns, key=str)


def test_the_gradients_on_the_page_are_the_derivatives():
    assert same(diff(alpha * UPDATE, B), dB)
    assert same(diff(BASE, x) + diff(alpha * UPDATE, x), dx)
    assert flat(diff(alpha * UPDATE, alpha)) == flat(dalpha)


def test_the_inner_product_of_B_and_its_gradient_is_alpha_times_that_of_alpha():
    assert flat(Trace(B.T * dB)) == flat(alpha * dalpha)


def test_at_the_start_alpha_has_no_gradient_and_x_has_that_of_the_base():
    at_zero = ZeroMatrix(R, S)
    assert dalpha.subs(B, at_zero).doit() == 0
    assert same(dx.subs(B, at_zero), G * W0.T)
    assert not same(dB, ZeroMatrix(R, S))


def test_c_alpha_and_B_over_c_are_the_same_layer():
    assert flat((c * alpha) * Trace(G.T * x * A * (B / c) * C)) == flat(alpha * UPDATE)


def test_what_is_conserved_under_flow_and_how_weight_decay_shrinks_it():
    """d/dt (alpha^2 - <B, B>) along -gradient - decay * parameter, with <B, dB> = alpha dalpha put in."""
    decay, a, square = symbols("decay dalpha square")  # square = <B, B>
    B_dot_dB = alpha * a
    rate = 2 * alpha * (-a - decay * alpha) - 2 * (-B_dot_dB - decay * square)
    assert sympy.expand(rate + 2 * decay * (alpha**2 - square)) == 0
    assert sympy.expand(rate.subs(decay, 0)) == 0


def test_a_wrong_gradient_is_not_taken_for_right():
    assert not same(diff(alpha * UPDATE, B), (x * A).T * (G * C.T))
    assert flat(Trace(B.T * dB)) != flat(dalpha)
