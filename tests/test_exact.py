"""Hand-written gradients against differences in rational arithmetic: equality, with ``==``.

A central difference has the error of its truncation, h^2 / 6 times a third derivative, and the error of
rounding. fractions.Fraction rounds nothing. And there is no third derivative: every kernel that uses + and *
only is linear along each of its arrays, the others held fixed, so the squared loss sum((y - target)^2) / 2 is
quadratic along it, and (L(x + h) - L(x - h)) / 2h is its derivative for every h, h = 1 included. (Where an
array enters twice, as C in MTLoRA's C C^T and v in HTA's v v^T, y is quadratic and the loss of degree four: there the
five-point difference, exact to that degree, takes the place of the central one.)
"""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tlora_ref.by_hand.kernels import KERNELS
from tlora_ref.gradcheck import check
from tlora_ref.shapes import InputError, tied

EXACT = [op for op in KERNELS.values() if op.exact]
every_exact_op = pytest.mark.parametrize("op", EXACT, ids=lambda op: op.name)
QUADRATIC = {("mtlora_icfm_linear", "C"), ("reflect", "v"), ("hta_linear", "left"), ("hta_linear", "right")}
rationals = st.fractions(min_value=-3, max_value=3, max_denominator=12)


@st.composite
def fractions(draw, op):
    """Arguments of the op in fractions: shapes, layouts and values drawn by hypothesis."""
    size = {letter: draw(st.integers(1, 3)) for letter in "IORS"}
    letters = {letter for arg in op.args for letter in arg.letters}
    size |= {letter: draw(st.integers(1, 2)) for letter in "XYZHK" if letter in letters}
    size = {"D": draw(st.integers(1, 3))} | size | tied(size)
    lead = draw(st.sampled_from([(), (2,), (2, 1)]))
    args = {}
    for arg in op.args:
        shape = sum(((lead if letter == "N" else (size[letter],)) for letter in arg.letters), ())
        values = st.sampled_from([Fraction(0), Fraction(4, 3)]) if arg.kind == "keep" else rationals
        if arg.optional and draw(st.booleans()):
            args[arg.name] = None
        elif arg.base == "scale":
            args[arg.name] = draw(rationals)
        else:
            order = draw(st.sampled_from("CF"))
            args[arg.name] = draw(arrays(object, shape, elements=values)).copy(order=order)
    return args


def squared_loss(op, args, target):
    y, cache = op.fwd(**args)
    return ((y - target) * (y - target)).sum() / 2, y - target, cache


def moved(args, name, index, by):
    x = args[name].copy()
    x[index] += by
    return {**args, name: x}


@every_exact_op
def test_the_gradient_of_the_squared_loss_is_its_central_difference(op):
    by_base = {arg.base: arg.name for arg in op.args}

    @settings(max_examples=12)
    @given(args=fractions(op), data=st.data())
    def equal(args, data):
        target = data.draw(arrays(object, op.fwd(**args)[0].shape, elements=rationals), label="target")
        h = data.draw(st.sampled_from([Fraction(1), Fraction(1, 7), Fraction(100)]), label="h")
        _, dy, cache = squared_loss(op, args, target)
        grads = op.bwd(dy, cache)
        y = op.fwd(**args)[0]
        for key in op.wrt:
            name = by_base[key]
            for index in np.ndindex(np.shape(args[name])) if args[name] is not None else ():
                at = {t: moved(args, name, index, t * h) for t in (-2, -1, 1, 2)}
                L = {t: squared_loss(op, a, target)[0] for t, a in at.items()}
                difference = (L[1] - L[-1]) / (2 * h)
                if (op.name, key) in QUADRATIC:
                    difference = (8 * (L[1] - L[-1]) - (L[2] - L[-2])) / (12 * h)
                else:
                    assert (op.fwd(**at[1])[0] + op.fwd(**at[-1])[0] == 2 * y).all(), f"y is not linear in {key}"
                gradient = grads[key][index] if np.ndim(grads[key]) else grads[key]
                assert isinstance(gradient, (Fraction, int)), key
                assert gradient == difference, (key, index)

    equal()


@pytest.mark.slow
@every_exact_op
def test_the_checkers_exact_oracle_allows_no_error(op):
    @settings(max_examples=8)
    @given(args=fractions(op), seed=st.integers(0, 2**16))
    def equal(args, seed):
        report = check(op.fwd, op.bwd, args, op.wrt, oracle="exact", seed=seed)
        report.raise_if_failed()
        assert {row.error for row in report.rows} == {0}

    equal()


def test_the_smallest_error_is_an_error():
    """One part in 10^40 on dB, far below what any float could show."""
    op = KERNELS["tlora_linear"]
    rng = np.random.default_rng(0)
    shapes = {"x_NI": (5, 3), "W0_IO": (3, 4), "b_O": (4,), "A_IR": (3, 2), "B_RS": (2, 2), "C_SO": (2, 4)}
    args = {name: rng.standard_normal(shape) for name, shape in shapes.items()} | {"alpha": np.array(1.7)}

    def off(dy, cache):
        grads = op.bwd(dy, cache)
        return {**grads, "B": grads["B"] * (1 + Fraction(1, 10**40))}

    for mode in ("directional", "full"):
        report = check(op.fwd, off, args, op.wrt, oracle="exact", mode=mode)
        assert {row.array: row.verdict for row in report.rows} == {"x_NI": "PASS", "B_RS": "FAIL", "alpha": "PASS"}
        assert 0 < report.rows[1].error < 1e-35
        assert len(report.rows[1].index) == 2
    assert check(op.fwd, op.bwd, args, op.wrt, oracle="exact", mode="full").ok


def test_a_kernel_that_leaves_the_fractions_cannot_be_checked_exactly():
    with pytest.raises(InputError, match=r"fn failed on x_NF \(3,\): TypeError"):
        check(KERNELS["gelu"].fwd, KERNELS["gelu"].bwd, {"x_NF": np.ones(3)}, oracle="exact")


def test_the_adapters_are_among_the_exact_kernels():
    assert {"tlora_linear", "lora_linear", "linear", "frozen_linear"} <= {op.name for op in EXACT}
