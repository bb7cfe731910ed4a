"""check_torch on right functions, on bugs that torch.autograd.gradcheck lets pass at its defaults, and bad input."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import Function

from tlora_ref import InputError
from tlora_ref.gradcheck import check, check_torch


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# --- planted bugs --------------------------------------------------------------------------------


class Update(Function):
    """TLoRA's update, alpha x A B C: the backward as the subclasses leave or spoil it."""

    cache_dtype = torch.float64

    @classmethod
    def spoil(cls, dB, inputs):
        return dB

    @staticmethod
    def forward(ctx, x, A, B, C, alpha):
        u = x @ A
        ctx.save_for_backward(x, A, B, C, alpha, u)
        return alpha * (u @ B) @ C

    @classmethod
    def gradients(cls, ctx, dy):
        _, A, B, C, alpha, u = ctx.saved_tensors
        u = u.to(cls.cache_dtype).to(u.dtype)
        g = dy @ C.T
        dB = cls.spoil(u.T @ g, ctx.saved_tensors)
        return alpha * (g @ B.T) @ A.T, None, alpha * dB, None, (B * (u.T @ g)).sum()


def planted(name, **body):
    """A subclass with a static backward, as torch wants it."""
    cls = type(name, (Update,), body)
    cls.backward = staticmethod(lambda ctx, dy: cls.gradients(ctx, dy))
    return cls


def one_entry(cls, dB, inputs):
    factor = torch.ones_like(dB)
    factor[0, 1] += 1e-6
    return dB * factor


def layout(cls, dB, inputs):
    return dB if inputs[3].is_contiguous() else dB * 2


class LayerNorm(Function):
    """eps is in the forward and left out of the backward."""

    @staticmethod
    def forward(ctx, x, gamma):
        centred = x - x.mean(-1, keepdim=True)
        var = (centred * centred).mean(-1, keepdim=True)
        ctx.save_for_backward(centred, var, gamma)
        return gamma * centred / (var + 1e-5).sqrt()

    @staticmethod
    def backward(ctx, dy):
        centred, var, gamma = ctx.saved_tensors
        xhat, dxhat = centred / var.sqrt(), gamma * dy
        dx = dxhat - dxhat.mean(-1, keepdim=True) - xhat * (dxhat * xhat).mean(-1, keepdim=True)
        return dx / var.sqrt(), (dy * xhat).sum(0)


class Small(Function):
    """1e-6 sin(x): its gradient, a zero, is entirely wrong and smaller than any absolute tolerance of 1e-5."""

    @staticmethod
    def forward(ctx, x):
        return 1e-6 * x.sin()

    @staticmethod
    def backward(ctx, dy):
        return torch.zeros_like(dy)


def update_inputs():
    x, A, B, C = draw(4, 5, seed=1), draw(5, 3, seed=2), draw(3, 2, seed=3), draw(2, 6, seed=4)
    trained = [t.requires_grad_() for t in (x, B, torch.tensor(1.7, dtype=torch.float64))]
    return [trained[0], A, trained[1], C, trained[2]]


def norm_inputs():
    return [draw(3, 5).requires_grad_(), (1 + 0.3 * draw(5, seed=1)).requires_grad_()]


BUGS = {
    "1e-4 on all of dB": (planted("Relative", spoil=classmethod(lambda cls, dB, _: dB * 1.0001)), update_inputs, "B"),
    "1e-6 on one entry": (planted("Entry", spoil=classmethod(one_entry)), update_inputs, "B"),
    "a float32 cache": (planted("Single", cache_dtype=torch.float32), update_inputs, "B"),
    "LayerNorm without eps": (LayerNorm, norm_inputs, "x"),
    "one memory layout": (planted("Layout", spoil=classmethod(layout)), update_inputs, "layout"),
    "small and all wrong": (Small, lambda: [draw(3, 4).requires_grad_()], "x"),
}


@pytest.mark.parametrize("name", BUGS)
@pytest.mark.parametrize("seed", [0, 1])
def test_bugs_that_torch_gradcheck_lets_pass_are_caught(name, seed):
    function, inputs, where = BUGS[name]
    assert torch.autograd.gradcheck(function.apply, inputs()), "torch's defaults see it: no longer an example"
    report = check_torch(function, inputs(), seed=seed)
    assert not report.ok
    failed = {row.array for row in report.rows if row.verdict == "FAIL"}
    if where == "layout":
        assert not failed
        note = next(p.note for p in report.protocol if p.name == "any memory layout")
        assert "for F-ordered arguments" in note
        assert "for non-contiguous arguments" in note
    else:
        assert where in failed
        assert f"FAIL d{where} at [" in report.table()


def test_the_same_functions_without_the_bugs_pass_both():
    right = planted("Right")
    report = check_torch(right, update_inputs())
    report.raise_if_failed()
    assert [row.array for row in report.rows] == ["x", "B", "alpha"]
    assert {row.oracle for row in report.rows} == {"richardson"}  # a Function without jvp has no forward mode
    assert torch.autograd.gradcheck(right.apply, update_inputs())
    assert max(row.ratio for row in report.rows) < 0.1


# --- modules, functions, oracles -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "shape", "oracle"),
    [
        (nn.Linear(4, 5), (3, 4), "forward-mode"),
        (nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.LayerNorm(6), nn.Linear(6, 2)), (3, 4), "forward-mode"),
        # its fused attention has no forward mode
        (nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True), (2, 3, 4), "richardson"),
        (nn.BatchNorm1d(3), (4, 3), "forward-mode"),
    ],
    ids=["linear", "sequential", "transformer", "batch norm"],
)
def test_modules_are_checked_with_their_parameters_and_left_as_they_are(module, shape, oracle):
    before = {k: v.clone() for k, v in module.state_dict().items()}
    report = check_torch(module, [draw(*shape).float()])
    report.raise_if_failed()
    assert {row.array for row in report.rows} >= {f"self.{name}" for name, _ in module.named_parameters()}
    assert len(report.rows) == 1 + len(list(module.parameters()))
    # near a kink of ReLU the differences of one array may take the place of forward mode
    assert oracle in {row.oracle for row in report.rows} <= {oracle, "richardson"}
    assert max(row.ratio for row in report.rows) < 0.1
    for name, value in module.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])
    assert all(p.grad is None for p in module.parameters())


def test_frozen_parameters_and_inputs_are_held_fixed():
    module = nn.Linear(3, 2)
    module.weight.requires_grad_(False)
    assert [row.array for row in check_torch(module, [draw(2, 3)]).rows] == ["input", "self.bias"]
    product = check_torch(lambda a, b: a * b, [draw(3).requires_grad_(), draw(3, seed=1)])
    assert [row.array for row in product.rows] == ["a"]


def test_inputs_by_name_integers_and_several_outputs():
    ids = torch.tensor([[1, 1], [0, 3]])
    report = check_torch(nn.Embedding(4, 3), {"input": ids})
    report.raise_if_failed()
    assert [row.array for row in report.rows] == ["self.weight"]

    def several(x, *, scale, power):
        return {"a": scale * x**power, "b": (x.sin(), x.sum())}

    check_torch(several, {"x": draw(2, 3), "scale": 1.7, "power": 3}).raise_if_failed()


def test_a_function_whose_jvp_is_wrong_is_asked_of_differences_and_its_gradient_not_blamed():
    class Cube(Function):
        @staticmethod
        def forward(x):
            return x**3

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)
            ctx.save_for_forward(*inputs)

        @staticmethod
        def backward(ctx, dy):
            return 3 * dy * ctx.saved_tensors[0] ** 2

        @staticmethod
        def jvp(ctx, dx):
            return 2 * dx * ctx.saved_tensors[0] ** 2

    report = check_torch(Cube, [draw(3)])
    assert [(row.array, row.verdict, row.oracle) for row in report.rows] == [("x", "PASS", "richardson")]
    assert "by differences, as forward-mode cannot follow fn" in report.rows[0].note


def test_other_points_are_checked_as_well():
    class Corner(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.tanh()

        @staticmethod
        def backward(ctx, dy):
            (x,) = ctx.saved_tensors
            return dy * (1 - x.tanh() ** 2) * torch.where(x < -2.5, 1.01, 1.0)

    x = 0.5 * draw(4, 3).clamp(-2, 2)
    assert check_torch(Corner, [x], points=("given",)).ok
    report = check_torch(Corner, [x])
    assert "at the point 'wide'" in report.table()
    assert check_torch(nn.Linear(3, 2), [draw(5, 3)]).covered == ("given", "wide", "small", "many rows", "one row")


def test_randomness_detached_outputs_and_full_mode():
    noisy = check_torch(nn.Dropout(0.5), [draw(20)])
    assert noisy.rows[0].verdict == "NONDETERMINISTIC"
    detached = check_torch(lambda x: (2 * x).detach(), [draw(3)])
    assert "was it detached?" in detached.malformed
    half = check_torch(lambda x, y: x.detach() * y, [draw(3), draw(3, seed=1)], mode="full")
    # zero by torch's account, forwards as backwards, and not by the values of the function
    assert {row.array: row.verdict for row in half.rows} == {"x": "ORACLE_INVALID", "y": "PASS"}
    assert json.loads(half.to_json())["rows"][0]["array"] == "x"


def test_nothing_given_is_changed():
    inputs = update_inputs()
    before = [t.detach().clone() for t in inputs]
    check_torch(planted("Right"), inputs)
    assert all(torch.equal(a, b) and a.grad is None for a, b in zip(inputs, before, strict=True))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((torch.sin, [torch.tensor([1.0, float("nan")])]), r"is nan at \[1\], expected finite numbers"),
        ((torch.sin, [torch.tensor([1, 2])]), "no floating-point array among the inputs"),
        ((torch.sin, torch.ones(2)), "inputs is a Tensor, expected a sequence"),
        ((3, [torch.ones(2)]), "got a int, expected an autograd.Function, a module or a function"),
        ((lambda a, b: a @ b, [torch.ones(2, 3), torch.ones(2)]), r"fn failed on a \(2, 3\), b \(2,\): RuntimeError"),
        ((lambda a: a > 0, [torch.ones(2)]), "output 0 has dtype bool"),
        ((lambda a: "text", [torch.ones(2)]), "without an array in it"),
    ],
)
def test_bad_input_is_named(given, message):
    with pytest.raises(InputError, match=message):
        check_torch(*given)
    with pytest.raises(InputError, match="mode is 'slow'"):
        check_torch(torch.sin, [torch.ones(2)], mode="slow")


def test_numpy_twin_and_torch_agree_on_what_is_wrong():
    """The same wrong gradient, checked as NumPy and as torch: the same hint."""
    x = np.random.default_rng(0).standard_normal((3, 4))

    class Sine(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        def backward(ctx, dy):
            return -dy * ctx.saved_tensors[0].cos()

    by_hand = check(lambda x: np.sin(x), lambda dout, x: {"x": -dout * np.cos(x)}, {"x": x})
    by_torch = check_torch(Sine, [torch.from_numpy(x)])
    assert by_hand.rows[0].note == by_torch.rows[0].note == "hand / oracle = -1"
