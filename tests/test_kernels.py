"""Properties of every kernel of the table: a new one is covered by all of them without being named here."""

import copy
import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from strategies import LEADS, cases, draw_case, projected_out, sizes

from tlora_ref.by_hand import ops
from tlora_ref.by_hand.kernels import KERNELS
from tlora_ref.gradcheck import central_gradient, complex_step_gradient
from tlora_ref.shapes import InputError, ShapeError

every_op = pytest.mark.parametrize("op", KERNELS.values(), ids=list(KERNELS))


def arrays_of(value):
    """All arrays inside nested tuples, lists and dictionaries."""
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [a for item in value for a in arrays_of(item)] if isinstance(value, (tuple, list)) else []


def backward(case):
    out, cache = case.op.fwd(**case.args)
    return out, case.op.bwd(case.cotangent(), cache)


def assert_gradients_agree(case, oracle, rtol):
    _, grads = backward(case)
    dout = case.cotangent()
    # analytically zero gradients (the key's shift in attention) are measured against the largest one
    cancelled = projected_out(case) * np.linalg.norm(case.cotangent())
    largest = max(cancelled, *(np.abs(g).max(initial=0.0) for g in grads.values()))
    for key, value in case.differentiable.items():

        def objective(array, key=key):
            return (dout * case.op.fwd(**case.with_arg(key, array))[0]).sum()

        expected = oracle(objective, np.asarray(value))
        scale = max(np.abs(expected).max(initial=0.0), np.abs(grads[key]).max(initial=0.0), 1e-2 * largest, 1e-2)
        np.testing.assert_allclose(grads[key], expected, rtol=0, atol=rtol * scale, err_msg=f"d{key}")


@every_op
def test_the_table_names_what_exists(op):
    assert callable(op.fwd)
    assert callable(op.bwd)
    assert set(op.wrt) <= {arg.base for arg in op.args}


def every_case(scales=(1.0,), examples=40):
    """``@given`` a case of the parametrized op, for every op."""

    def decorate(test):
        def run(op):
            @settings(max_examples=examples)
            @given(case=cases(op, scales))
            def inner(case):
                test(case)

            inner()

        run.__name__, run.__doc__ = test.__name__, test.__doc__
        return every_op(run)

    return decorate


@every_case(scales=(1e-3, 1.0, 10.0))
def test_backward_equals_the_complex_step(case):
    assert_gradients_agree(case, complex_step_gradient, 1e-11)


@every_case(examples=15)
def test_backward_equals_central_differences(case):
    assert_gradients_agree(case, central_gradient, 1e-6)


@every_case()
def test_gradients_have_the_declared_keys_shapes_and_dtype(case):
    out, grads = backward(case)
    assert out.shape == case.out_shape
    assert set(grads) == set(case.op.wrt)
    for key, value in case.differentiable.items():
        assert np.shape(grads[key]) == np.shape(value), key
        assert grads[key].dtype == np.float64


@every_case()
def test_one_gradient_can_be_asked_for_alone(case):
    _, cache = case.op.fwd(**case.args)
    full = case.op.bwd(case.cotangent(), cache)
    for key in case.op.wrt:
        alone = case.op.bwd(case.cotangent(), cache, wrt=[key])
        assert list(alone) == [key]
        np.testing.assert_array_equal(alone[key], full[key])
    assert case.op.bwd(case.cotangent(), cache, wrt=[]) == {}
    with pytest.raises(InputError, match="no gradient with respect to W9"):
        case.op.bwd(case.cotangent(), cache, wrt=["W9"])


@every_case()
def test_inputs_cotangent_and_cache_are_left_alone(case):
    before = copy.deepcopy(case.args)
    _, cache = case.op.fwd(**case.args)
    dout = case.cotangent()
    kept, cached = dout.copy(), copy.deepcopy(arrays_of(cache))
    case.op.bwd(dout, cache)
    for name, value in before.items():
        np.testing.assert_array_equal(case.args[name], value, err_msg=name)
    np.testing.assert_array_equal(dout, kept)
    for a, b in zip(arrays_of(cache), cached, strict=True):
        np.testing.assert_array_equal(a, b)


@every_case()
def test_results_share_no_memory_with_the_inputs(case):
    out, cache = case.op.fwd(**case.args)
    dout = case.cotangent()
    results = [out, *arrays_of(case.op.bwd(dout, cache))]
    for result in results:
        for given_array in [*arrays_of(case.args), dout]:
            assert not np.shares_memory(result, given_array)


@every_case()
def test_the_memory_layout_does_not_matter(case):
    _, expected = backward(case)
    size = 1 + projected_out(case) * np.linalg.norm(case.cotangent())
    for order in "CF":
        args = {k: np.array(v, order=order) if isinstance(v, np.ndarray) else v for k, v in case.args.items()}
        _, cache = case.op.fwd(**args)
        grads = case.op.bwd(np.array(case.cotangent(), order=order), cache)
        for key, value in expected.items():
            np.testing.assert_allclose(
                grads[key], value, rtol=1e-11, atol=1e-11 * (size + np.abs(value).max(initial=0))
            )


@every_case(examples=15)
def test_zero_cotangent_gives_zero_gradients(case):
    _, cache = case.op.fwd(**case.args)
    for key, value in case.op.bwd(np.zeros(case.out_shape), cache).items():
        np.testing.assert_array_equal(value, np.zeros_like(value), err_msg=key)


@every_case(examples=15)
def test_two_calls_give_the_same_bits(case):
    first, second = backward(case), backward(copy.deepcopy(case))
    np.testing.assert_array_equal(first[0], second[0])
    for key in first[1]:
        np.testing.assert_array_equal(first[1][key], second[1][key])


def recast(case, dtype):
    def cast(value):
        return value.astype(dtype) if isinstance(value, np.ndarray) and value.dtype == np.float64 else value

    return {name: cast(value) for name, value in case.args.items()}


@every_case(examples=20)
def test_float32_stays_float32_and_close_to_float64(case):
    _, grads = backward(case)
    out32, cache = case.op.fwd(**recast(case, np.float32))
    grads32 = case.op.bwd(case.cotangent().astype(np.float32), cache)
    assert out32.dtype == np.float32
    for array in arrays_of(cache):
        assert array.dtype in (np.float32, np.bool_, np.int64), array.dtype
    # the checker's rule with float32's numbers: where terms cancel (all of DoRA's dA if V has one row), what is
    # left has the rounding of the terms, and those grow with the cotangent
    cancelled = projected_out(case) * np.linalg.norm(case.cotangent())
    largest = max(cancelled, *(np.abs(g).max(initial=0.0) for g in grads.values()))
    floor = 1e-5 * np.linalg.norm(case.cotangent()) * max(1.0, largest)
    for key, value in grads.items():
        assert grads32[key].dtype == np.float32, key
        atol = 1e-4 * np.abs(value).max(initial=0.0) + floor
        np.testing.assert_allclose(grads32[key], value, rtol=0, atol=atol, err_msg=key)


@every_case(examples=15)
def test_complex128_passes_through(case):
    out, grads = backward(case)
    out_c, cache = case.op.fwd(**recast(case, np.complex128))
    grads_c = case.op.bwd(case.cotangent().astype(complex), cache)
    assert out_c.dtype == np.complex128
    np.testing.assert_allclose(out_c, out, rtol=1e-11, atol=1e-11 * (1 + np.abs(out).max(initial=0)))
    size = 1 + projected_out(case) * np.linalg.norm(case.cotangent())
    for key, value in grads.items():
        atol = 1e-11 * (size + np.abs(value).max(initial=0))
        np.testing.assert_allclose(grads_c[key], value, rtol=1e-10, atol=atol)


@every_op
def test_a_wrong_axis_is_named_with_its_letters(op):
    """Every argument in turn loses its last entry along one axis: the error names both arrays and the letter."""
    size = sizes(np.random.default_rng(3), op)
    case = draw_case(op, 3, (4,), {**size, "D": size["D"] * 6} if "H" in size else size)
    given_arrays = [a for a in op.args if a.kind == "real" and case.args[a.name] is not None]
    # a letter that another array has, or the same one on another axis
    pairs = [(a, b) for a in given_arrays for b in given_arrays if a.letters[-1:] in tuple((a != b) * b.letters)]
    pairs += [(a, a) for a in given_arrays if a.letters[-1:] in tuple(a.letters[:-1])]
    kernel = inspect.unwrap(getattr(op.fwd, "func", op.fwd)).__name__.removesuffix("_fwd")
    for arg, _ in pairs:
        with pytest.raises(ShapeError, match=rf"{kernel}.*{arg.letters[-1]} = \d+"):
            op.fwd(**{**case.args, arg.name: case.args[arg.name][..., :-1]})
    assert pairs or len(given_arrays) == 1 or op.name == "embedding"


def test_too_few_axes_are_named():
    with pytest.raises(ShapeError, match=r"layer_norm: x_ND has shape \(\), expected axes \(..., D\)"):
        ops.layer_norm_fwd(np.array(1.0), np.ones(3), np.ones(3))


@pytest.mark.parametrize("lead", LEADS, ids=str)
@pytest.mark.parametrize("name", ["tlora_linear", "lora_linear", "linear", "frozen_linear"])
def test_leading_axes_are_rows(name, lead):
    """(..., I) gives what (rows, I) gives, and so do the gradients."""
    op = KERNELS[name]
    case = draw_case(op, 7, lead, sizes(np.random.default_rng(7), op))
    rows = {
        a.name: v.reshape(-1, v.shape[-1]) if isinstance(v, np.ndarray) and "N" in a.letters else v
        for a, v in ((a, case.args[a.name]) for a in op.args)
    }
    out, grads = backward(case)
    flat, cache = op.fwd(**rows)
    flat_grads = op.bwd(case.cotangent().reshape(flat.shape), cache)
    np.testing.assert_allclose(out.reshape(flat.shape), flat, rtol=1e-13, atol=1e-13)
    for key, value in grads.items():
        np.testing.assert_allclose(value.reshape(flat_grads[key].shape), flat_grads[key], rtol=1e-12, atol=1e-12)
