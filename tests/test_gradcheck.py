"""The checker, and above all that it fails when it should: every verdict, every protocol check, every hint."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import hilbert
from scipy.special import erfc
from strategies import cases

from tlora_ref import InputError
from tlora_ref.by_hand.kernels import KERNELS
from tlora_ref.gradcheck import ORACLES, GradientError, check
from tlora_ref.gradcheck.arithmetic import DIGITS, to_fractions, to_mpmath
from tlora_ref.gradcheck.checker import check_by_each
from tlora_ref.gradcheck.comparison import Comparison
from tlora_ref.gradcheck.confirm import confirmation
from tlora_ref.gradcheck.oracles import Line, OracleError, central, complex_step, exact, gradient, in_mpmath, richardson
from tlora_ref.gradcheck.pair import Pair
from tlora_ref.gradcheck.point import PROTOCOL, Point
from tlora_ref.gradcheck.points import POINTS
from tlora_ref.gradcheck.trace import trace
from tlora_ref.verification.scenarios import DIFFERENT, SQUARE, draw_case, encoder_loss, scenarios
from tlora_ref.verification.suite import twin_of

TLORA = KERNELS["tlora_linear"]


def point(size=DIFFERENT, lead=(5,), **changes):
    args = draw_case(TLORA, 0, lead, size, generic=True).args
    return {**args, **{k: np.asarray(v, dtype=float) for k, v in changes.items()}}


def tampered(change):
    """TLoRA's backward with ``change(grads, cache)`` made to what it returns."""

    def bwd(dy, cache):
        grads = TLORA.bwd(dy, cache)
        change(grads, cache)
        return grads

    return bwd


GIVEN = ("given",)


def tlora(change, inputs=None, points=GIVEN, **options):
    inputs = point() if inputs is None else inputs
    return check(TLORA.fwd, tampered(change), inputs, wrt=TLORA.wrt, points=points, **options)


def row(report, name):
    return next(r for r in report.rows if r.array == name)


def protocol(report):
    return {p.name: p for p in report.protocol}


# --- right gradients pass ------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("op", KERNELS.values(), ids=list(KERNELS))
def test_every_kernel_passes_every_oracle_in_both_modes(op):
    args = dict(scenarios(op))["different sizes"].args
    for oracle in ("auto", *ORACLES, "torch"):
        if oracle != "exact" or op.exact:
            for mode in ("directional", "full") if oracle not in ("richardson", "mpmath") else ("directional",):
                chosen = twin_of(op.name) if oracle == "torch" else oracle
                report = check(op.fwd, op.bwd, args, wrt=op.wrt, oracle=chosen, mode=mode, points=GIVEN)
                report.raise_if_failed()
                assert not report.untested
                assert max(r.ratio for r in report.rows) < 0.1, (oracle, mode)


@pytest.mark.slow
@pytest.mark.parametrize("op", KERNELS.values(), ids=list(KERNELS))
def test_no_false_alarm_over_the_ranges_that_find_bugs(op):
    @settings(max_examples=15)
    @given(case=cases(op, scales=(1e-3, 1.0, 1e3)), seed=st.integers(0, 2**16))
    def holds(case, seed):
        check(op.fwd, op.bwd, case.args, wrt=tuple(case.differentiable), seed=seed).raise_if_failed()

    holds()


@pytest.mark.parametrize("method", [None, "tlora", "lora"])
def test_the_loss_of_an_encoder_passes_entry_by_entry(method):
    loss = encoder_loss(method, seed=3)
    report = check(loss.fn, loss.vjp, loss.inputs, mode="full", cotangents=1, points=GIVEN)
    report.raise_if_failed()
    assert set(report.untested) == loss.flat
    assert max(r.ratio for r in report.rows) < 0.1


def test_float32_is_held_against_float64():
    inputs = {k: v.astype(np.float32) if isinstance(v, np.ndarray) else v for k, v in point().items()}
    report = check(TLORA.fwd, TLORA.bwd, inputs, wrt=TLORA.wrt)
    report.raise_if_failed()
    assert all(r.error > 0 for r in report.rows)
    assert not tlora(lambda grads, _: grads.update(B=grads["B"] * np.float32(1.001)), inputs).ok


# --- wrong ones do not ---------------------------------------------------------------------------


def replaced(name, by):
    return lambda grads, cache: grads.update({name: by(grads[name])})


def with_entry(gradient, factor):
    changed = gradient.copy()
    changed[-1, -1] *= factor
    return changed


@pytest.mark.parametrize("mode", ["directional", "full"])
@pytest.mark.parametrize("oracle", ["auto", "complex", "richardson", "central", "mpmath", "torch", "exact"])
def test_a_factor_is_named(oracle, mode):
    """dB without its alpha; every oracle sees it, in every mode, and nothing else is blamed."""
    chosen = twin_of(TLORA.name) if oracle == "torch" else oracle
    report = tlora(lambda grads, cache: grads.update(B=grads["B"] / cache[5]), oracle=chosen, mode=mode)
    assert {r.array: r.verdict for r in report.rows} == {"x_NI": "PASS", "B_RS": "FAIL", "alpha": "PASS"}
    found = row(report, "B_RS")
    assert found.note == "hand / oracle = 0.588235 = 1/alpha"
    assert found.hand / found.truth == pytest.approx(1 / 1.7, rel=1e-4)
    assert found.ratio > 1
    assert not report.ok
    with pytest.raises(GradientError, match=r"FAIL dB_RS at \[\d, \d\]: hand .*= 1/alpha"):
        report.raise_if_failed()


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (replaced("x", np.negative), "hand / oracle = -1"),
        (replaced("x", lambda g: 2 * g), "hand / oracle = 2"),
        (replaced("x", lambda g: g / 7), "hand / oracle = 0.142857 = 1/N"),
        (replaced("x", lambda g: g * 7), "hand / oracle = 7 = N"),
        (replaced("x", lambda g: g / np.sqrt(6)), "hand / oracle = 0.408248 = 1/sqrt(O)"),
        (replaced("alpha", lambda g: g * 1.7), "hand / oracle = 1.7 = alpha"),
        (replaced("alpha", lambda g: g / 1.7**2), "hand / oracle = 0.346021 = 1/alpha^2"),
        (replaced("x", lambda g: 0 * g), "hand is zero everywhere"),
        (replaced("x", lambda g: g * 1.0001), "hand / oracle = 1.0001"),
        (replaced("x", lambda g: g.astype(np.float32).astype(float)), "hand has only the digits of float32"),
        (replaced("B", lambda g: with_entry(g, 1.5)), ""),
    ],
)
@pytest.mark.parametrize("mode", ["directional", "full"])
def test_hints(change, hint, mode):
    report = tlora(change, point(lead=(7,)), mode=mode)
    (failed,) = [r for r in report.rows if r.verdict == "FAIL"]
    assert failed.note == hint


def test_a_transpose_and_a_swap_are_named():
    square = point(SQUARE)
    assert (
        row(tlora(replaced("B", lambda g: g.T.copy()), square), "B_RS").note == "hand is the transpose of the gradient"
    )
    op, heads = KERNELS["attention"], {"heads": 2}
    args = dict(zip(("q_NTD", "k_NTD", "v_NTD"), np.random.default_rng(0).standard_normal((3, 5, 4, 6)), strict=True))

    def swapped(dout, cache):
        grads = op.bwd(dout, cache)
        return {**grads, "k": grads["q"], "q": grads["k"]}

    def unscaled(dout, cache):
        grads = op.bwd(dout, cache)
        return {**grads, "q": grads["q"] * np.sqrt(3)}

    report = check(op.fwd, swapped, args | heads, points=GIVEN)
    assert row(report, "q_NTD").note == "dk_NTD is the gradient that belongs here"
    assert row(check(op.fwd, unscaled, args | heads, points=GIVEN), "q_NTD").note == "hand / oracle = 1.73205 = sqrt(K)"


@pytest.mark.parametrize("mode", ["directional", "full"])
def test_one_entry_off_by_a_millionth_is_found_where_it_is(mode):
    report = tlora(replaced("B", lambda g: with_entry(g, 1 + 1e-6)), mode=mode)
    found = row(report, "B_RS")
    assert (found.verdict, found.index) == ("FAIL", (2, 1))
    assert found.hand / found.truth - 1 == pytest.approx(1e-6, rel=1e-3)


def test_full_mode_names_the_worst_entry():
    def off(grads, cache):
        grads["B"][0, 0] += 1e-3
        grads["B"][1, 1] += 1e-2

    assert row(tlora(off, mode="full"), "B_RS").index == (1, 1)


# --- VACUOUS, ORACLE_INVALID, NONDETERMINISTIC ---------------------------------------------------


@pytest.mark.parametrize("oracle", ["auto", "exact", "torch"])
def test_the_initial_point_says_nothing_about_alpha(oracle):
    start = point(B_RS=np.zeros((3, 2)), alpha=1.0)
    oracle = twin_of(TLORA.name) if oracle == "torch" else oracle
    wrong = tlora(replaced("alpha", lambda g: 5 * g), start, oracle=oracle)
    assert wrong.ok
    assert wrong.untested == ("alpha",)
    assert "check at another point" in wrong.table()
    assert not tlora(replaced("alpha", lambda g: 5 * g), oracle=oracle).ok


def test_a_gradient_where_there_is_none_is_wrong_and_not_vacuous():
    report = tlora(replaced("alpha", lambda g: g + 1e-3), point(B_RS=np.zeros((3, 2))))
    assert row(report, "alpha").verdict == "FAIL"


UNSAFE = {
    "abs": (lambda x: np.abs(x) ** 1.5, lambda dout, x: {"x": dout * 1.5 * np.sqrt(np.abs(x)) * np.sign(x)}),
    "var": (lambda x: np.var(x), lambda dout, x: {"x": dout * 2 * (x - x.mean()) / x.size}),
    "norm": (lambda x: np.linalg.norm(x), lambda dout, x: {"x": dout * x / np.linalg.norm(x)}),
    "partly": (lambda x: x * x + 1e-3 * x * np.abs(x), lambda dout, x: {"x": dout * (2 * x + 2e-3 * np.abs(x))}),
    "cast": (lambda x: x.astype(float) ** 2, lambda dout, x: {"x": 2 * dout * x}),
    "raises": (lambda x: np.hypot(x, 1.0), lambda dout, x: {"x": dout * x / np.hypot(x, 1.0)}),
    "conj": (lambda x: x * np.conj(x) + 0 * x, lambda dout, x: {"x": 2 * dout * x}),
}


@pytest.mark.parametrize("name", UNSAFE)
def test_a_function_that_is_not_complex_safe_is_not_blamed_on_its_gradient(name):
    fn, vjp = UNSAFE[name]
    x = {"x": np.random.default_rng(0).standard_normal((2, 3))}
    report = check(fn, vjp, x, oracle="complex", points=GIVEN)
    assert row(report, "x").verdict == "ORACLE_INVALID"
    assert not report.ok
    assert "complex" in row(report, "x").note
    wrong = lambda dout, x: {"x": 1.0000001 * vjp(dout, x)["x"]}  # noqa: E731
    for oracle in ("richardson", "auto"):
        check(fn, vjp, x, oracle=oracle).raise_if_failed()
        found = row(check(fn, wrong, x, oracle=oracle), "x")
        assert (found.verdict, found.oracle) == ("FAIL", "richardson")
        assert oracle == "richardson" or "by differences, as the complex step" in found.note


def test_a_gradient_that_errs_as_the_complex_step_does_is_not_passed():
    """d|x| = 0 agrees with the complex step of abs, and with nothing else."""
    report = check(lambda x: x + 0 * 1j if np.iscomplexobj(x) else np.abs(x),
                   lambda dout, x: {"x": dout.copy()}, {"x": np.array([1.0, -2.0, 3.0])}, points=GIVEN)  # fmt: skip
    found = row(report, "x")
    assert (found.verdict, found.index) == ("FAIL", (1,))


@pytest.mark.parametrize("eps", [1e-6, 1e-7, 1e-8, 1e-9])
@pytest.mark.parametrize("points", [GIVEN, POINTS])
def test_a_small_term_that_the_complex_step_cannot_follow_decides_neither_verdict(eps, points):
    """The complex step drops d(eps |w|) = eps sign(w) without a word; central differences do not see it at 1e-6."""

    def fn(x, w):
        return ((x @ w) ** 2).sum() + eps * abs(w).sum()

    def right(dout, x, w):
        return {"x": dout * 2 * (x @ w) @ w.T, "w": dout * (2 * x.T @ (x @ w) + eps * np.sign(w))}

    def wrong(dout, x, w):
        return {**right(dout, x, w), "w": dout * 2 * x.T @ (x @ w)}

    for seed in range(5):
        rng = np.random.default_rng(seed)
        inputs = {"x": rng.standard_normal((5, 3)), "w": rng.standard_normal((3, 2))}
        assert check(fn, right, inputs, seed=seed, points=points).ok
        found = row(check(fn, wrong, inputs, seed=seed, points=points), "w")
        assert (found.verdict, found.oracle) == ("FAIL", "richardson")
        assert "cannot follow fn through abs" in found.note


def test_a_part_that_passes_through_a_cast_is_followed_by_differences():
    def fn(x):
        return x * x + 1e-9 * x.astype(float)

    x = {"x": np.array([1.0, 2.0])}
    check(fn, lambda dout, x: {"x": dout * (2 * x + 1e-9)}, x).raise_if_failed()
    assert row(check(fn, lambda dout, x: {"x": dout * 2 * x}, x), "x").verdict == "FAIL"


def test_only_the_array_the_oracle_cannot_handle_is_asked_of_differences():
    report = check(lambda x, y: x * x + y * np.abs(y),
                   lambda dout, x, y: {"x": 2 * dout * x, "y": 2 * dout * np.abs(y)},
                   {"x": np.array([1.0, 2.0]), "y": np.array([1.5, -0.5])})  # fmt: skip
    assert {r.array: (r.verdict, r.oracle) for r in report.rows} == {
        "x": ("PASS", "complex"),
        "y": ("PASS", "richardson"),
    }
    assert "PASS dy by differences, as the complex step cannot follow fn through abs" in report.table()


def test_richardson_knows_where_it_is_lost():
    """A function of noise has no derivative: the oracle's own estimate of its error says so."""
    noisy = np.random.default_rng(0)
    table = {}

    def fn(x):
        return x + np.array([table.setdefault(float(v), noisy.standard_normal()) for v in x]) * 1e-3

    report = check(fn, lambda dout, x: {"x": dout.copy()}, {"x": np.array([1.0, 2.0])}, oracle="richardson")
    assert row(report, "x").verdict == "ORACLE_INVALID"
    assert "by its own estimate" in row(report, "x").note


@pytest.mark.parametrize(
    ("fn", "note"), [(np.exp, "needs fn to use + and * only"), (lambda x: x * x * x, "not linear or quadratic")]
)
def test_exact_needs_plus_and_times_and_degree_two(fn, note):
    x = {"x": np.array([0.5, 1.5])}
    vjp = lambda dout, x: {"x": 2 * dout * x}  # noqa: E731
    found = row(check(lambda x: x * x, vjp, x, oracle="exact"), "x")
    assert (found.verdict, found.error) == ("PASS", 0)
    if fn is np.exp:  # the hand-written gradient is in fractions too, so fn fails before any oracle is asked
        with pytest.raises(InputError, match="fn failed"):
            check(fn, vjp, x, oracle="exact")
    else:
        found = row(check(fn, vjp, x, oracle="exact"), "x")
        assert (found.verdict, found.note[:10]) == ("ORACLE_INVALID", "fn is not ")
    line = Line(lambda inputs: [fn(inputs["x"])], {"x": to_fractions(x["x"])}, {"x": np.array([1, 1], object)}, [[1]])
    with pytest.raises(OracleError, match=re.escape(note)):
        exact(line)


def test_randomness_is_named():
    rng = np.random.default_rng(0)
    noisy = tlora(replaced("B", lambda g: g * rng.random()))
    assert {r.array: r.verdict for r in noisy.rows} == {"x_NI": "PASS", "B_RS": "NONDETERMINISTIC", "alpha": "PASS"}
    assert not noisy.ok
    fn = check(lambda x: x * rng.random(), lambda dout, x: {"x": dout * 0.5}, {"x": np.ones(3)})
    assert row(fn, "x").verdict == "NONDETERMINISTIC"


# --- the protocol --------------------------------------------------------------------------------


def accumulated(total):
    def bwd(dy, cache):
        grads = TLORA.bwd(dy, cache)
        total["B"] = total.get("B", 0) + grads["B"]
        return {**grads, "B": total["B"].copy()}

    return bwd


def spoils_cache(dy, cache):
    grads = TLORA.bwd(dy, cache)
    cache[0][...] *= 2
    return grads


def spoils_cotangent(dy, cache):
    dy *= 2
    return TLORA.bwd(dy / 2, cache)


def sees_layout(dy, cache):
    grads = TLORA.bwd(dy, cache)
    return grads if cache[4].flags.c_contiguous else {**grads, "B": grads["B"] * 1.001}


def constant(dy, cache):
    grads = TLORA.bwd(dy, cache)
    return {**grads, "x": grads["x"] + 1e-30}


@pytest.mark.parametrize(
    ("bwd", "broken", "note"),
    [
        (accumulated({}), "same bits twice", "dB_RS has other numbers the second time"),
        (spoils_cache, "inputs unchanged", "vjp changed the cache"),
        (spoils_cotangent, "inputs unchanged", "vjp changed the cotangent"),
        (sees_layout, "any memory layout", "for F-ordered arguments"),
        (constant, "zero for a zero cotangent", "dx_NI is not zero"),
        (tampered(replaced("x", lambda g: g.astype(np.float32))), "keys, shapes and dtypes", "dx_NI is float32"),
        (tampered(lambda g, c: g.update(B=c[3])), "no shared memory", "dB_RS shares memory with B_RS"),
        (tampered(lambda g, c: g.update(W9=g["x"])), "keys, shapes and dtypes", "vjp returned 'W9'"),
        (tampered(lambda g, c: g.pop("x")), "keys, shapes and dtypes", "x_NI: vjp returned no gradient"),
        (tampered(lambda g, c: g.update(A=c[2] + 1)), "keys, shapes and dtypes", "'A', which is held fixed"),
        (tampered(replaced("x", lambda g: g.T)), "keys, shapes and dtypes", r"shape \(4, 5\), expected \(5, 4\)"),
        (tampered(replaced("x", lambda g: g * np.nan)), "keys, shapes and dtypes", r"is nan at \[0, 0\]"),
        (tampered(replaced("x", lambda g: g + 1j)), "keys, shapes and dtypes", "dtype complex128"),
        (lambda dy, cache: TLORA.bwd(dy, cache)["x"], "keys, shapes and dtypes", "a ndarray, expected a dictionary"),
        (lambda dy, cache: 1 / 0, "keys, shapes and dtypes", "vjp failed: ZeroDivisionError: division by zero"),
    ],
)
def test_every_protocol_check_fails_when_it_should(bwd, broken, note):
    report = check(TLORA.fwd, bwd, point(), wrt=TLORA.wrt, points=GIVEN)
    assert not report.ok
    assert re.search(note, protocol(report)[broken].note)
    assert f"FAIL protocol, {broken}: " in report.table()


def test_the_protocol_holds_for_a_right_gradient():
    found = protocol(check(TLORA.fwd, TLORA.bwd, point(), wrt=TLORA.wrt))
    assert tuple(found) == PROTOCOL
    assert all(p.ok and not p.note for p in found.values())


def test_a_function_that_spoils_or_passes_on_its_inputs_is_named_and_the_callers_arrays_stay_whole():
    x = np.array([[1.0, 2.0], [3.0, 4.0]])

    def spoils(x):
        x *= 2
        return x * 1.0

    report = check(spoils, lambda dout, x: {"x": 2 * dout}, {"x": x})
    assert protocol(report)["inputs unchanged"].note == "fn changed x"
    np.testing.assert_array_equal(x, [[1, 2], [3, 4]])
    passed = check(lambda x: x, lambda dout, x: {"x": dout}, {"x": x})
    note = protocol(passed)["no shared memory"].note
    assert "output 0 shares memory with x" in note
    assert "dx shares memory with the cotangent" in note
    twice = check(lambda x, y: x + y, lambda dout, x, y: dict.fromkeys("xy", 1 * dout), {"x": x, "y": 2 * x})
    assert protocol(twice)["no shared memory"].note == "dy shares memory with dx"


def test_what_is_malformed_is_said_and_the_other_arrays_are_still_compared():
    report = tlora(replaced("x", lambda g: g.T))
    assert report.malformed == "x_NI: its gradient has shape (4, 5), expected (5, 4)"
    assert {r.array: r.verdict for r in report.rows} == {"x_NI": "FAIL", "B_RS": "PASS", "alpha": "PASS"}
    assert not tlora(replaced("x", np.negative)).malformed


# --- forms of functions --------------------------------------------------------------------------


def test_several_outputs_nested_any_way():
    rng = np.random.default_rng(0)
    inputs = {"x": rng.standard_normal(3), "y": rng.standard_normal(3)}
    forms = {
        "tuple": (lambda x, y: (x * y, x + y), lambda d: d),
        "list": (lambda x, y: [x * y, x + y], lambda d: d),
        "dictionary": (lambda x, y: {"p": x * y, "s": x + y}, lambda d: (d["p"], d["s"])),
        "nested": (lambda x, y: [x * y, (x + y, 3 * x)], lambda d: (d[0], d[1][0], d[1][1])),
    }
    for name, (fn, unpack) in forms.items():

        def vjp(dout, x, y, unpack=unpack, wrong=1.0):
            dp, ds, *more = unpack(dout)
            return {"x": dp * y + wrong * ds + sum(3 * d for d in more), "y": dp * x + ds}

        check(fn, vjp, inputs).raise_if_failed()
        bad = check(fn, lambda dout, vjp=vjp, **inputs: vjp(dout, wrong=0.5, **inputs), inputs)
        assert {r.array: r.verdict for r in bad.rows} == {"x": "FAIL", "y": "PASS"}, name


def test_all_forms_of_a_backward():
    x = {"x": np.array([0.3, -1.2]), "n": 3}

    def cached(x, n):
        return n * np.sin(x), (x, n)

    forms = [
        (cached, lambda dout, cache: {"x": dout * cache[1] * np.cos(cache[0])}),
        (cached, lambda dout, cache, wrt=None: {"x": dout * cache[1] * np.cos(cache[0])}),
        (cached, lambda dout, **inputs: {"x": dout * inputs["n"] * np.cos(inputs["x"])}),
        (cached, lambda dout, x, n: {"x": dout * n * np.cos(x)}),
        (lambda x, n: cached(x, n)[0], lambda dout, x: {"x": dout * 3 * np.cos(x)}),
        (lambda x, n: cached(x, n)[0].sum(), lambda dout, *, x, n: {"x": dout * n * np.cos(x)}),
    ]
    for fn, vjp in forms:
        check(fn, vjp, x).raise_if_failed()
    with pytest.raises(InputError, match=r"fn returned a ndarray, expected \(out, cache\)"):
        check(lambda x, n: n * x, lambda dout, cache: {"x": dout}, x)


def test_names_with_and_without_letters():
    x_NI, W_IO = np.ones((2, 3)), np.arange(12.0).reshape(3, 4)
    for full in (True, False):
        names = ("x_NI", "W_IO") if full else ("x", "W")

        def vjp(dout, x_NI, W_IO, names=names):
            return dict(zip(names, (dout @ W_IO.T, x_NI.T @ dout), strict=True))

        check(lambda x_NI, W_IO: x_NI @ W_IO, vjp, {"x_NI": x_NI, "W_IO": W_IO}, wrt=names).raise_if_failed()


def test_what_is_held_fixed_is_named_by_the_backward_or_in_wrt():
    fn, args = (lambda **arguments: TLORA.fwd(**arguments)), point()

    def names_its_own(dy, cache):
        return TLORA.bwd(dy, cache)

    names_its_own.gradients = ("x", "B", "alpha")
    assert [r.array for r in check(fn, names_its_own, args).rows] == ["x_NI", "B_RS", "alpha"]
    assert [r.array for r in check(fn, names_its_own, args, wrt=["x", "B"]).rows][:2] == ["x_NI", "B_RS"]
    assert "A_IR: vjp returned no gradient for it" in check(fn, lambda dy, cache: TLORA.bwd(dy, cache), args).malformed
    check(fn, TLORA.bwd, args, wrt=("x", "B", "alpha")).raise_if_failed()
    one = check(fn, lambda dy, cache: TLORA.bwd(dy, cache, wrt=["B"]), args, wrt=["B"])
    assert [r.array for r in one.rows] == ["B_RS"]
    assert one.ok


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ({"x": np.array([1.0, np.nan])}, {}, r"x is nan at \[1\], expected finite numbers"),
        ({"x": np.array([[1.0, np.inf]])}, {}, r"x is inf at \[0, 1\]"),
        ({"x": np.ones(2), "s": float("nan")}, {}, "s is nan"),
        ({"x": np.ones(2, dtype=complex)}, {}, "x has dtype complex128, expected float64 or float32"),
        ({"x": np.ones(2, dtype=np.float16)}, {}, "x has dtype float16"),
        ({"x": np.arange(3)}, {}, "nothing to differentiate by: no floating-point array among the inputs x"),
        ({}, {}, "nothing to differentiate by"),
        ({"x": np.ones(2), "n": 3}, {"wrt": ["n"]}, "wrt names 'n', which is a int"),
        ({"x": np.ones(2)}, {"wrt": ["y"]}, "wrt names 'y', which is not among the inputs x"),
        ({"x": np.ones(2)}, {"wrt": "x"}, "wrt is the text 'x'"),
        ({"x": np.ones(2)}, {"oracle": "exat"}, "oracle is 'exat', expected auto, complex, exact"),
        ({"x": np.ones(2)}, {"oracle": "torch"}, "oracle is 'torch', expected the twin itself"),
        ({"x": np.ones(2)}, {"points": ["far"]}, "points has 'far', expected some of given, wide"),
        ({"x": np.ones(2)}, {"points": "wide"}, "points is the text 'wide'"),
        ({"x": np.ones(2)}, {"mode": "fast"}, "mode is 'fast', expected one of directional, full"),
        ({"x": np.ones(2)}, {"cotangents": 0}, "cotangents is 0"),
    ],
)
def test_a_point_that_cannot_be_used_is_an_error(inputs, options, message):
    with pytest.raises(InputError, match=message):
        check(lambda **inputs: inputs["x"] * 2, lambda dout, **inputs: {"x": 2 * dout}, inputs, **options)


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda x: x @ np.ones((3, 3)), r"fn failed on x \(2,\): ValueError: matmul"),
        (
            lambda x: x * np.nan,
            r"fn's output 0 is nan at \[0\], for finite inputs",
        ),
        (lambda x: x > 0, "fn's output 0 has dtype bool, expected floating point"),
        (lambda x: (x * 2, x.argmax()), "fn's output 1 has dtype int64"),
        (lambda x: None, "fn returned a NoneType without an array in it"),
    ],
)
def test_a_function_that_fails_at_the_point_is_an_error(fn, message):
    with pytest.raises(InputError, match=message):
        check(fn, lambda dout, x: {"x": dout}, {"x": np.ones(2)})


def test_arrays_without_entries_or_axes():
    check(lambda a, x: a * x, lambda dout, a, x: {"a": (dout * x).sum(), "x": a * dout},
          {"a": np.float64(1.7), "x": np.ones((2, 3))}).raise_if_failed()  # fmt: skip
    empty = check(lambda x, y: x.sum() + y, lambda dout, x, y: {"x": dout + 0 * x, "y": 1.0 * dout},
                  {"x": np.ones((0, 3)), "y": np.array(2.0)})  # fmt: skip
    assert {r.array: r.verdict for r in empty.rows} == {"x": "VACUOUS", "y": "PASS"}


# --- cost ----------------------------------------------------------------------------------------


def calls(n_arrays, size, **options):
    """How often fn runs."""
    count = 0

    def fn(**arrays):
        nonlocal count
        count += 1
        return sum(a * a for a in arrays.values())

    inputs = {f"x{i}": np.random.default_rng(i).standard_normal(size) for i in range(n_arrays)}
    report = check(
        fn, lambda dout, **arrays: {k: 2 * dout * a for k, a in arrays.items()}, inputs, points=GIVEN, **options
    )
    report.raise_if_failed()
    return count


@pytest.mark.parametrize("oracle", ["auto", "complex", "central"])
def test_two_evaluations_per_array_whatever_its_size(oracle):
    assert calls(1, 3, oracle=oracle) == calls(1, 3000, oracle=oracle)
    assert calls(5, 30, oracle=oracle) - calls(3, 30, oracle=oracle) == 2 * 2
    assert calls(2, 30, oracle=oracle, cotangents=5) == calls(2, 30, oracle=oracle)


def test_several_oracles_share_the_gradients_and_their_protocol():
    """Each judges as it does alone, a wrong gradient and a broken protocol included; fn runs less often."""
    every = ("auto", "exact", "richardson", "central", "mpmath")
    count = 0

    def fwd(**arrays):
        nonlocal count
        count += 1
        return TLORA.fwd(**arrays)

    def doubled(dy, cache):
        return (grads := TLORA.bwd(dy, cache)) | {"B": 2 * grads["B"]}

    def cotangent_spoilt(dy, cache):
        grads = TLORA.bwd(dy.copy(), cache)
        dy[:] = 0
        return grads

    for vjp, verdicts in ((TLORA.bwd, {"PASS"}), (doubled, {"PASS", "FAIL"}), (cotangent_spoilt, {"PASS"})):
        count = 0
        together = check_by_each(fwd, vjp, point(), every, TLORA.wrt)
        shared, count = count, 0
        alone = [check(fwd, vjp, point(), TLORA.wrt, oracle, points=GIVEN) for oracle in every]
        assert shared < count
        for one, same in zip(together, alone, strict=True):
            assert {row.verdict for row in one.rows} == verdicts
            assert [(r.array, r.verdict) for r in one.rows] == [(r.array, r.verdict) for r in same.rows]
            assert [(p.name, p.ok) for p in one.protocol] == [(p.name, p.ok) for p in same.protocol]
        assert not together[0].ok or vjp is TLORA.bwd


def test_full_mode_costs_an_evaluation_per_entry_and_finding_an_entry_few():
    base = calls(1, 10, oracle="complex") - 2
    assert calls(1, 40, oracle="complex", mode="full") == base + 40
    count = 0

    def fn(x):
        nonlocal count
        count += 1
        return x * x

    def off(dout, x):
        gradient = 2 * dout * x
        gradient[777] += 1
        return {"x": gradient}

    report = check(fn, off, {"x": np.random.default_rng(0).standard_normal(1000)}, oracle="complex", points=GIVEN)
    assert row(report, "x").index == (777,)
    assert count < base + 60


# --- oracles -------------------------------------------------------------------------------------


@pytest.mark.parametrize("derivative", [complex_step, central, richardson, in_mpmath])
def test_oracles_on_a_function_with_a_known_derivative(derivative):
    """d exp(sin x) = cos x exp(sin x)."""
    x = np.linspace(-2, 2, 7)
    lifted = to_mpmath(x) if derivative is in_mpmath else x
    line = Line(
        lambda inputs: [np.exp(np.sin(inputs["x"]))],
        {"x": lifted},
        {"x": np.ones(7)},
        [[np.eye(7)[i]] for i in range(7)],
    )
    found, off = derivative(line)
    bound = {complex_step: 1e-15, central: 1e-9, richardson: 1e-11, in_mpmath: 1e-15}[derivative]
    error = np.abs(found - np.cos(x) * np.exp(np.sin(x))).max()
    assert error < bound
    assert derivative is not richardson or error <= off < 1e-9


def test_mpmath_keeps_what_float64_loses():
    """1 + 1e-17, and the normal tail at -40, in the functions that the kernels call."""
    x = to_mpmath(np.array([1e-17, 2.0]))
    with mpmath.workdps(DIGITS):
        assert float(((1 + x) - 1)[0]) == 1e-17
        tail = erfc(to_mpmath(np.array([40.0])))[0]
        assert mpmath.almosteq(tail, mpmath.erfc(40))
        assert 0 < tail < 1e-300
        assert np.isfinite(x).all()
        assert float(np.log(np.exp(x).sum())) == pytest.approx(np.log(1 + np.exp(2)), rel=1e-15)


def test_gradients_of_scalar_functions():
    f, x = (lambda x: np.exp(x[0] * x[1]) + x[1] ** 2), np.array([0.3, -0.7])
    e = np.exp(-0.21)
    for derivative, bound in ((complex_step, 1e-15), (central, 1e-9), (richardson, 1e-12)):
        np.testing.assert_allclose(gradient(derivative, f, x), [-0.7 * e, 0.3 * e - 1.4], rtol=bound)


# --- the report ----------------------------------------------------------------------------------


class Cells(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found, self.depth = [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.depth += 1

    def handle_endtag(self, tag):
        self.depth -= 1

    def handle_data(self, data):
        self.found.append(data)


def test_the_report_as_json_and_html():
    reports = {
        "passed": tlora(lambda g, c: None),
        "failed": tlora(replaced("B", lambda g: 2 * g)),
        "malformed": tlora(replaced("x", lambda g: g.T)),
        "exact": tlora(replaced("B", lambda g: 2 * g), oracle="exact"),
    }
    for name, report in reports.items():
        back = json.loads(report.to_json())
        assert back["ok"] == report.ok == (name == "passed")
        assert bool(back["malformed"]) == (name == "malformed")
        for found, made in zip(back["rows"], report.rows, strict=True):
            assert (found["array"], found["verdict"], found["oracle"]) == (made.array, made.verdict, made.oracle)
            assert (found["hand"], found["truth"], found["error"]) == (made.hand, made.truth, made.error)
            assert found["index"] == (None if made.index is None else list(made.index))
        assert [p["name"] for p in back["protocol"]] == [p.name for p in report.protocol]
        html = Cells(report._repr_html_())
        assert html.depth == 0
        assert {r.array for r in report.rows} < set(html.found)
        assert str(report) == report.table()
    assert json.loads(reports["exact"].to_json())["rows"][1]["ratio"] is None  # infinite: no error is allowed
    assert (
        "<b>"
        not in check(lambda **i: 2 * i["<b>"], lambda dout, **i: {"<b>": 2 * dout}, {"<b>": np.ones(2)})._repr_html_()
    )


def test_the_same_seed_gives_the_same_report():
    assert tlora(replaced("B", lambda g: 2 * g)).to_json() == tlora(replaced("B", lambda g: 2 * g)).to_json()
    assert tlora(lambda g, c: None, seed=1).to_json() != tlora(lambda g, c: None, seed=2).to_json()


def test_importing_the_checker_imports_neither_torch_nor_mpmath():
    heavy = "{'torch', 'mpmath', 'matplotlib'}"
    code = f"import sys, tlora_ref.gradcheck as g; g.check; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --- functions that fail elsewhere than at the point ---------------------------------------------


def test_a_function_that_fails_near_the_point_or_for_one_layout_is_reported_and_nothing_escapes():
    def picky(x):
        if not x.flags.c_contiguous:
            raise TypeError("C order only")
        return np.sqrt(x)

    def root(dout, x):
        return {"x": dout / (2 * np.sqrt(x))}

    report = check(picky, root, {"x": np.array([[1.0, 2.0], [3.0, 4.0]])}, oracle="richardson")
    assert "for F-ordered arguments fn failed: TypeError: C order only" in protocol(report)["any memory layout"].note
    edge = check(lambda x: np.where(x > 0, x, np.nan), lambda dout, x: {"x": 1 * dout}, {"x": np.array([1e-9, 1.0])},
                 oracle="central")  # fmt: skip
    assert row(edge, "x").verdict == "ORACLE_INVALID"
    assert "gives NaN or infinity" in row(edge, "x").note

    def only_here(x):
        if (x != 1).any():
            raise RuntimeError("elsewhere")
        return x * 1

    here = check(only_here, lambda dout, x: {"x": 1 * dout}, {"x": np.ones(2)}, oracle="richardson")
    assert "richardson oracle failed: RuntimeError: elsewhere" in row(here, "x").note
    layouts = check(
        TLORA.fwd, lambda dy, c: TLORA.bwd(dy, c) if c[4].flags.c_contiguous else {}, point(), wrt=TLORA.wrt
    )
    assert "for F-ordered arguments dx_NI: vjp returned no gradient" in protocol(layouts)["any memory layout"].note
    assert not layouts.malformed


def test_the_callers_arrays_and_a_reused_buffer_are_safe():
    buffer, x = np.empty(3), np.array([1.0, 2.0, 3.0])

    def reused(dout, x):
        return {"x": np.multiply(dout, 2 * x, out=buffer)}

    def spoils(dout, x):
        gradient = {"x": dout * 2 * x}
        x *= 0
        return gradient

    check(lambda x: x * x, reused, {"x": x}).raise_if_failed()
    report = check(lambda x: x * x, spoils, {"x": x})
    assert protocol(report)["inputs unchanged"].note == "vjp changed x"
    np.testing.assert_array_equal(x, [1, 2, 3])


# --- caches, kinks, noise, scales and points: what a right verdict needs besides an oracle ------------------------


def stale(kind):
    """A layer whose cache is one buffer, what the last forward saw, or what the first one saw."""
    kept = {}

    def fn(x):
        if kind == "buffer":
            kept.setdefault(x.shape, np.empty(x.shape, dtype=complex))[...] = x
            return np.sin(x), kept[x.shape]
        kept["last"] = x.copy()
        kept.setdefault(x.shape, x.copy())
        return np.sin(x), x.shape

    def vjp(dout, cache):
        x = {"buffer": lambda: cache.real, "last": lambda: kept["last"], "first": lambda: kept[cache]}[kind]()
        return {"x": dout * np.cos(x)}

    return fn, vjp


@pytest.mark.parametrize("kind", ["buffer", "last"])
def test_a_cache_that_another_forward_spoils_is_named(kind):
    report = check(*stale(kind), {"x": np.array([1.0, 2.0, -3.0])}, points=GIVEN)
    assert row(report, "x").verdict == "PASS"
    note = protocol(report)["every call its own cache"].note
    assert note == "dx is another once fn has run at a second point before vjp"
    assert report.wrong


def test_backwards_that_mix_up_two_caches_are_named():
    order = []

    def fn(x):
        order.append(x.copy())
        return np.sin(x), x.copy()

    def vjp(dout, cache):
        x = order.pop(0) if len(order) > 1 else cache  # first in, first out
        order.clear()
        return {"x": dout * np.cos(x)}

    report = check(fn, vjp, {"x": np.array([1.0, 2.0])}, points=GIVEN)
    assert not report.ok


def test_the_cache_of_the_first_call_shows_at_another_point():
    assert check(*stale("first"), {"x": np.array([1.0, 2.0, -3.0])}, points=GIVEN).ok
    found = row(check(*stale("first"), {"x": np.array([1.0, 2.0, -3.0])}), "x")
    assert found.verdict == "FAIL"
    assert "at the point 'wide'" in found.note


def relu(x):
    return np.maximum(x, 0)


def clipped(x):
    return np.clip(x, -1, 1)


def pooled(x):
    return x.reshape(-1, 2).max(axis=1)


def pooled_back(dout, x):
    y = x.reshape(-1, 2)
    return {"x": (dout[:, None] * np.eye(2)[y.argmax(axis=1)]).reshape(-1)}


KINKS = {
    "relu at 0": (relu, lambda dout, x: {"x": dout * (x > 0)}, [0.0, 1.0, -2.0, 0.0]),
    "relu at 0, the other slope": (relu, lambda dout, x: {"x": dout * (x >= 0)}, [0.0, 1.0, -2.0, 0.0]),
    "clip at its bound": (clipped, lambda dout, x: {"x": dout * (abs(x) < 1)}, [-1.0, 0.5, 1.0, 2.0]),
    "a tie in a maximum": (pooled, pooled_back, [1.0, 1.0, 2.0, 3.0]),
    "abs at 0": (np.abs, lambda dout, x: {"x": dout * np.where(x < 0, -1, 1)}, [0.0, 1.0, -2.0]),
}


@pytest.mark.parametrize("name", KINKS)
@pytest.mark.parametrize("oracle", ["auto", "richardson", "complex"])
def test_a_kink_is_called_one_and_its_two_slopes_are_given(name, oracle):
    fn, vjp, x = KINKS[name]
    x = np.array(x)
    first = lambda x: fn(x)  # noqa: E731  (a ufunc takes no keywords)
    report = check(first, vjp, {"x": x}, oracle=oracle, points=GIVEN)
    found = row(report, "x")
    if oracle == "complex" and found.verdict != "KINK":  # it may have followed the side that the gradient takes
        assert found.verdict in ("PASS", "ORACLE_INVALID")
        assert "use oracle" not in found.note
        return
    assert found.verdict == "KINK"
    assert found.index is not None
    assert re.search(r"slope -?[\d.]+ to the left and -?[\d.]+ to the right", found.note)
    assert report.ok
    assert not report.wrong
    assert report.untested == ("x",)


@pytest.mark.parametrize("name", KINKS)
def test_beside_a_kink_and_at_it_what_is_wrong_is_wrong(name):
    fn, vjp, x = KINKS[name]
    x = np.array(x)
    first = lambda x: fn(x)  # noqa: E731
    smooth = check(first, lambda dout, x: {"x": 1.001 * vjp(dout, x)["x"]}, {"x": x}, points=GIVEN)
    assert row(smooth, "x").verdict == "FAIL"
    off = np.eye(1, x.size, 0)[0]
    outside = check(first, lambda dout, x: {"x": vjp(dout, x)["x"] + 100 * dout.sum() * off}, {"x": x}, points=GIVEN)
    assert row(outside, "x").verdict == "FAIL"
    assert "is outside of both" in row(outside, "x").note


def test_close_to_a_kink_the_traced_complex_step_is_right():
    x = np.array([1e-7, -1e-7, 1.0])
    report = check(relu, lambda dout, x: {"x": dout * (x > 0)}, {"x": x}, points=GIVEN)
    assert (row(report, "x").verdict, row(report, "x").oracle) == ("PASS", "complex")
    assert not check(relu, lambda dout, x: {"x": dout * (x > 1e-6)}, {"x": x}, points=GIVEN).ok


@pytest.mark.parametrize("n", [3, 5, 6, 7, 8])
def test_an_ill_conditioned_forward_is_told_from_a_wrong_gradient(n):
    A = {"A": hilbert(n)}
    inv = np.linalg.inv

    def right(dout, A):
        return {"A": -inv(A).T @ dout @ inv(A).T}

    assert check(inv_of, right, A, points=GIVEN).ok
    assert not check(inv_of, lambda dout, A: {"A": 1.01 * right(dout, A)["A"]}, A, points=GIVEN).ok


def inv_of(A):
    return np.linalg.inv(A)


def test_where_the_forward_is_all_noise_nothing_is_said_of_the_gradient():
    report = check(inv_of, lambda dout, A: {"A": -inv_of(A).T @ dout @ inv_of(A).T}, {"A": hilbert(12)}, points=GIVEN)
    found = row(report, "A")
    assert found.verdict == "ORACLE_INVALID"
    assert not report.wrong


def test_a_forward_in_float32_gets_the_tolerance_its_noise_needs():
    def fn(x):
        return np.tanh(x.astype(np.float32)).astype(float)

    def vjp(dout, x):
        return {"x": (dout * (1 - np.tanh(x) ** 2)).astype(np.float32).astype(float)}

    x = {"x": np.random.default_rng(0).standard_normal((4, 3))}
    report = check(fn, vjp, x)
    report.raise_if_failed()
    assert "fn's own noise" in row(report, "x").note
    assert row(check(fn, lambda dout, x: {"x": 1.01 * vjp(dout, x)["x"]}, x), "x").verdict == "FAIL"


@pytest.mark.parametrize("share", [1e-4, 1e-8, 1e-12])
def test_entries_of_every_scale_are_tested_at_their_own(share):
    x = np.array([1.0, -2.0, 0.5, 3.0]) * np.array([1.0, 1.0, 1.0, share])
    wrong = lambda dout, x: {"x": dout * 2 * x * np.array([1, 1, 1, 1.5])}  # noqa: E731
    found = row(check(lambda x: x**2, wrong, {"x": x}, points=GIVEN), "x")
    assert (found.verdict, found.index) == ("FAIL", (3,))
    check(lambda x: x**2, lambda dout, x: {"x": 2 * dout * x}, {"x": x}).raise_if_failed()


def linear_back(db):
    return lambda dout, x, w, b: {"x": dout @ w.T, "w": x.T @ dout, "b": db(dout)}


def test_what_only_some_points_show_is_found_and_the_report_says_what_was_covered():
    rng = np.random.default_rng(0)
    inputs = {"x": rng.standard_normal((1, 4)), "w": rng.standard_normal((4, 3)), "b": rng.standard_normal(3)}
    fn = lambda x, w, b: x @ w + b  # noqa: E731
    bugs = {
        "many rows": linear_back(lambda dout: dout[0].copy()),
        "wide": lambda dout, x, w, b: {**linear_back(lambda d: d.sum(axis=0))(dout, x, w, b),
                                       "w": x.T @ dout * np.where(np.abs(w) > 2.5, 1.001, 1)},
        "small": lambda dout, x, w, b: {**linear_back(lambda d: d.sum(axis=0))(dout, x, w, b),
                                        "w": x.T @ dout * np.where(np.abs(w) < 0.03, 1.001, 1)},
    }  # fmt: skip
    for point_, vjp in bugs.items():
        assert check(fn, vjp, inputs, points=GIVEN).ok, point_
        report = check(fn, vjp, inputs)
        assert not report.ok
        assert f"at the point '{point_}'" in report.table()
    right = check(fn, linear_back(lambda dout: dout.sum(axis=0)), inputs)
    right.raise_if_failed()
    assert right.covered == ("given", "wide", "small", "many rows")
    assert "points: given, wide, small, many rows; left out" in right.table()
    five = check(fn, linear_back(lambda dout: dout.sum(axis=0) if len(dout) > 1 else 2 * dout[0]),
                 {**inputs, "x": rng.standard_normal((5, 4))})  # fmt: skip
    assert "at the point 'one row'" in row(five, "b").note


def test_a_function_of_one_length_is_not_blamed_for_others():
    target = np.arange(5.0)
    report = check(lambda x: ((x - target) ** 2).sum(), lambda dout, x: {"x": 2 * dout * (x - target)},
                   {"x": np.linspace(-1, 1, 5)})  # fmt: skip
    report.raise_if_failed()
    assert set(report.left_out) == {"many rows", "one row"}


def test_logarithms_keep_their_domain():
    x = {"x": np.array([0.5, 1.5, 3.0])}
    report = check(lambda x: np.log(x), lambda dout, x: {"x": dout / x}, x)
    report.raise_if_failed()
    assert set(report.covered) == set(POINTS)


@pytest.mark.parametrize(
    ("given_back", "said"),
    [
        ([[1.0, 2.0], [3.0]], "its gradient is a list of unequal rows, expected an array of numbers"),
        ("text", "its gradient has dtype <U4, expected float64"),
        (None, "its gradient has dtype object, expected float64"),
        (np.array([None, 1.0, 2.0], dtype=object), "its gradient has dtype object"),
    ],
)
def test_ragged_and_other_results_that_are_no_numbers_are_refused_in_a_sentence(given_back, said):
    report = check(lambda x: x * x, lambda dout, x: {"x": given_back}, {"x": np.ones(3)})
    assert said in report.malformed
    assert not report.ok
    with pytest.raises(InputError, match="fn's output 0 has dtype object, expected floating point"):
        check(lambda x: np.array([None], dtype=object), lambda dout, x: {"x": dout}, {"x": np.ones(3)})


def test_a_function_that_ends_the_program_is_refused_in_a_sentence():
    with pytest.raises(InputError, match=r"fn failed on x \(3,\): SystemExit: 3"):
        check(lambda x: sys.exit(3), lambda dout, x: {"x": dout}, {"x": np.ones(3)})
    assert "vjp failed: SystemExit" in check(lambda x: x * x, lambda dout, x: sys.exit(), {"x": np.ones(3)}).malformed


# --- the trace -----------------------------------------------------------------------------------


def traced_as(fn, x=None):
    x = np.random.default_rng(0).standard_normal((3, 4)) if x is None else x
    return trace(lambda inputs: fn(inputs["x"]), {"x": x}, {"x": np.ones(x.shape)}, fn(x))


BUFFER = np.zeros((3, 4), dtype=complex)


def filled(x):
    y = np.empty(x.shape, dtype=np.result_type(x, np.float32))
    y[:] = x * x
    return y


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: np.exp(x) @ x.T, lambda x: np.einsum("ij,kj->ik", x, x), lambda x: x.sum(axis=0) / x.shape[0],
        lambda x: np.where(x > 0, x, 0.1 * x), lambda x: np.concatenate([x, x.T.reshape(3, 4)]), filled,
        lambda x: erfc(x), lambda x: np.ascontiguousarray(x.T).max(axis=0), lambda x: np.pad(x, 1)[1:] ** 2,
        lambda x: np.linalg.inv(x @ x.T + 4 * np.eye(3)), lambda x: np.sort(x, axis=1), lambda x: x[[0, 0, 2]],
        lambda x: np.stack([row * 2 for row in x]),
    ],
)  # fmt: skip
def test_a_function_that_the_complex_step_can_follow_has_a_clean_trace(fn):
    found = traced_as(fn)
    assert found.clean, found


@pytest.mark.parametrize(
    ("fn", "named"),
    [
        (np.abs, "abs"), (np.conj, "conj"), (lambda x: np.real(x), "real"), (lambda x: x.real, "real"),
        (lambda x: x.imag + x, "imag"), (np.var, "var"), (lambda x: x.std(), "std"), (np.linalg.norm, "norm"),
        (lambda x: x.astype(float), "astype(float64)"), (lambda x: np.array(x, dtype=float), "array(float64)"),
        (np.sign, "sign"), (lambda x: x * np.iscomplexobj(x) + x, "a question whether the argument is complex"),
        (lambda x: x * x + 1e-12 * np.abs(x), "abs"), (np.floor_divide, None),
    ],
)  # fmt: skip
def test_every_function_it_cannot_follow_is_named(fn, named):
    found = traced_as(fn if named else lambda x: np.median(x, axis=0))
    assert found.unsafe[:1] == (named or "median",)
    assert not found.clean


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: np.array([float(v.real) for v in x.flat]) * 2,
        lambda x: np.array(x.tolist()).real,
        lambda x: x * x + 1e-12 * x.view(np.ndarray).real,
        lambda x: x.flat[0] * x,
        lambda x: np.add(x, 1, out=BUFFER) * 1,
    ],
)
def test_what_leaves_the_trace_is_noticed(fn):
    assert not traced_as(fn).clean


def test_ties_are_noticed_and_distinct_numbers_are_none():
    ties = np.array([[1.0, 1.0, 0.5], [2.0, 3.0, 0.0]])
    assert traced_as(lambda x: x.max(axis=1), ties).tie
    assert not traced_as(lambda x: x.min(axis=1), ties).tie
    assert traced_as(lambda x: np.maximum(x, 0), ties).tie
    assert not traced_as(lambda x: np.maximum(x, -1), ties).tie
    assert traced_as(lambda x: np.sort(x, axis=1), ties).tie


def test_numpy_is_as_it_was_after_a_trace_that_failed():
    before = np.empty, np.zeros, np.asarray

    def fails(x):
        if np.iscomplexobj(x):
            raise RuntimeError("no")
        return x

    assert traced_as(fails).lost
    assert (np.empty, np.zeros, np.asarray) == before


@pytest.mark.parametrize("op", KERNELS.values(), ids=list(KERNELS))
def test_every_kernel_is_confirmed_by_its_trace(op):
    """So its gradients are held to eleven digits, whatever differences can see."""
    args = dict(scenarios(op))["different sizes"].args
    point_ = Point(Pair(op.fwd, op.bwd), args, op.wrt, ORACLES["complex"], 1, 0)
    comparison = Comparison(point_, ORACLES["complex"], None, None)
    trust = confirmation(comparison)
    assert comparison.traced
    assert (trust.invalid, comparison.support) == ({}, {})
