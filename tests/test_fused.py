"""TLoRA's fused layer against the same layer in torch's own operations: values,
gradients, what is kept, where it applies."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import Conv1D
from torch import nn

from tlora_ref import AdapterConfig
from tlora_ref.by_autograd import fused
from tlora_ref.by_autograd.linear import AdaptedLinear, TLoRALinear
from tlora_ref.counts import activations
from tlora_ref.lab.bench.memory import kept_bytes


def layer(I=12, O=10, R=3, bias=True, conv1d=False, dtype=torch.float64, dropout=0.0):
    torch.manual_seed(1)
    base = (Conv1D(O, I) if conv1d else nn.Linear(I, O, bias=bias)).to(dtype)
    adapted = TLoRALinear(base, AdapterConfig(rank=R, dropout=dropout), "x")
    with torch.no_grad():
        adapted.B.normal_()
        adapted.alpha.fill_(-1.3)
    return adapted


def run(adapted, forward, x, dy):
    """y and the gradients of x, B and alpha."""
    x = x.clone().requires_grad_()
    y = forward(x)
    adapted.zero_grad()
    y.backward(dy.to(y.dtype))
    return [None if t is None else t.detach().clone() for t in (y, x.grad, adapted.B.grad, adapted.alpha.grad)]


@pytest.fixture
def calls(monkeypatch):
    """How often the fused node ran."""
    count, apply = [], fused.FrozenAndUpdate.apply
    monkeypatch.setattr(fused.FrozenAndUpdate, "apply", lambda *args: count.append(1) or apply(*args))
    return count


@settings(max_examples=40)
@given(
    sizes=st.permutations([5, 7, 9]),
    lead=st.sampled_from([(), (1,), (4,), (2, 3), (2, 1, 3), (3, 5)]),
    bias=st.booleans(),
    conv1d=st.booleans(),
    transposed=st.booleans(),
)
def test_values_and_gradients_are_those_of_torchs_own_operations(sizes, lead, bias, conv1d, transposed):
    I, O, R = *sizes[:2], min(sizes) - 1
    adapted = layer(I, O, R, bias, conv1d)
    x, dy = torch.randn(*lead, I, dtype=torch.float64), torch.randn(*lead, O, dtype=torch.float64)
    if transposed and len(lead) > 1:
        x, dy = (t.transpose(0, 1).contiguous().transpose(0, 1) for t in (x, dy))
    ours = run(adapted, adapted, x, dy)
    plain = run(adapted, lambda x: AdaptedLinear.forward(adapted, x), x, dy)
    for mine, theirs in zip(ours, plain, strict=True):
        assert mine.shape == theirs.shape
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    assert min(t.abs().max() for t in plain) > 0


@pytest.mark.parametrize("base", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("given_x", [torch.float32, torch.bfloat16])
def test_under_autocast_it_is_as_exact_as_torchs_own_operations(base, given_x, calls):
    adapted = layer(64, 48, 8, dtype=base)
    x, dy = torch.randn(200, 64, dtype=given_x), torch.randn(200, 48)
    exact = run(adapted, lambda x: AdaptedLinear.forward(adapted.double(), x.double()), x, dy)
    adapted = layer(64, 48, 8, dtype=base)
    with torch.autocast("cpu", torch.bfloat16):
        ours = run(adapted, adapted, x, dy)
        plain = run(adapted, lambda x: AdaptedLinear.forward(adapted, x), x, dy)
    assert calls == [1]
    for mine, theirs, truth in zip(ours, plain, exact, strict=True):
        assert mine.dtype == theirs.dtype
        errors = [(t.double() - truth).norm() / truth.norm() for t in (mine, theirs)]
        assert errors[0] <= 1.3 * errors[1] < 0.05


@settings(max_examples=20)
@given(lead=st.sampled_from([(5,), (2, 3)]), sizes=st.permutations([6, 8, 9]), x_grad=st.booleans())
def test_what_it_keeps_is_the_closed_form(lead, sizes, x_grad):
    I, O, R = *sizes[:2], 4
    adapted = layer(I, O, R)
    x = torch.randn(*lead, I, dtype=torch.float64, requires_grad=x_grad)
    rows = x.numel() // I
    # the node asks for alpha B whether or not something below needs dx
    assert kept_bytes(lambda: adapted(x), list(adapted.state_dict(keep_vars=True).values())) == 8 * activations(
        "tlora", rows, I, O, R
    )


def test_it_runs_where_there_is_no_dropout_and_one_dtype(calls):
    x = torch.randn(4, 12, dtype=torch.float64)
    layer()(x)
    layer(dropout=0.5).eval()(x)
    assert len(calls) == 2
    layer(dropout=0.5).train()(x)
    layer(dtype=torch.bfloat16)(x.bfloat16())
    layer().eval().requires_grad_(False).merge()
    assert len(calls) == 2


def test_under_autocast_a_small_update_is_not_rounded_away_going_back():
    """More rows than outputs, where other dtypes sum W0 + A M C first: bfloat16 would leave nothing of this one."""
    adapted = layer(64, 48, 8, dtype=torch.float32)
    nn.init.normal_(adapted.B, std=1e-4)
    x, dy = torch.randn(4000, 64), torch.randn(4000, 48)
    with torch.autocast("cpu", torch.bfloat16):
        found = run(adapted, adapted, x, dy)[1] - run(adapted, adapted.base, x, dy)[1]
    update = dy @ (adapted.A @ (adapted.alpha * adapted.B) @ adapted.C).detach().T
    assert 0.8 < (found * update).sum() / (update * update).sum() < 1.2


def test_with_autocast_float64_is_left_alone(calls):
    adapted, x = layer(), torch.randn(4, 12, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert adapted(x).dtype == torch.float64
    assert calls == []


@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
def test_a_hook_on_the_base_is_called(kind, calls):
    adapted, seen = layer(), []
    getattr(adapted.base, f"register_{kind}_hook")(lambda *_: seen.append(1))
    x = torch.randn(4, 12, dtype=torch.float64, requires_grad=True)
    adapted(x).sum().backward()
    assert (seen, calls) == ([1], [])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("kind", "bias"), [("linear", True), ("linear", False), ("conv1d", True)])
@pytest.mark.parametrize("rows", ["vector", "matrix", "batch", "transposed", "expanded"])
def test_attached_and_untrained_the_output_is_the_bases_bit_for_bit(dtype, kind, bias, rows, calls):
    """By construction, on every processor: zeros are added to what the base itself returns."""
    adapted = layer(96, 70, 8, bias, kind == "conv1d", dtype)
    x = {
        "vector": torch.randn(96), "matrix": torch.randn(50, 96), "batch": torch.randn(2, 30, 96),
        "transposed": torch.randn(30, 2, 96).transpose(0, 1), "expanded": torch.randn(96).expand(2, 30, 96),
    }[rows].to(dtype)  # fmt: skip
    trained = adapted(x)
    with torch.no_grad():
        adapted.B.zero_()
    assert torch.equal(adapted(x), adapted.base(x))
    assert (trained != adapted.base(x)).any()
    assert calls == [1, 1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("I", [7, 96, 700])
def test_attached_and_untrained_in_half_precision_the_output_is_the_bases_to_rounding(dtype, bias, I, calls):
    """Of each output the layer and its base sum the same I products and b, and the layer S zeros, in float32 and in
    orders of their own, and round the sum once. A sum of n terms is off by at most n u / (1 - n u) of the sum of their
    magnitudes, u = eps / 2 (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1)."""
    R = 5
    adapted = layer(I, 40, R, bias, dtype=torch.float32)
    with torch.no_grad():
        adapted.B.zero_()
    x = torch.randn(30, I)
    with torch.autocast("cpu", dtype), torch.no_grad():
        y, y0 = adapted(x).double(), adapted.base(x).double()
    assert calls == [1]
    x, W = x.to(dtype).double(), adapted.base.weight.T.to(dtype).double()
    b = adapted.bias.to(dtype).double() if bias else torch.zeros(40, dtype=torch.float64)
    n, u, u_half = I + 1 + R, torch.finfo(torch.float32).eps / 2, torch.finfo(dtype).eps / 2
    summed = n * u / (1 - n * u) * (x.abs() @ W.abs() + b.abs())
    # once for either side; below its normal numbers float16 has a fixed last digit
    rounded = u_half * ((x @ W + b).abs() + summed) + torch.finfo(dtype).tiny * u_half
    assert bool(((y - y0).abs() <= 2 * (summed + rounded)).all())


@pytest.mark.parametrize("shape", [(12,), (4, 12), (2, 3, 12), (0, 12)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_what_comes_out_may_be_changed_in_place(shape, dtype, calls):
    adapted, found = layer(dtype=torch.float64 if dtype == torch.float64 else torch.float32), []
    for in_place in (False, True):
        torch.manual_seed(2)
        x = torch.randn(*shape, dtype=adapted.B.dtype).requires_grad_()
        with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
            y = adapted(x)
        adapted.zero_grad()
        (y.mul_(3) if in_place else 3 * y).square().sum().backward()
        found.append([x.grad, adapted.B.grad.clone()])
    assert calls == [1, 1]
    for plain, changed in zip(*found, strict=True):
        torch.testing.assert_close(changed, plain)


def test_a_second_derivative_is_refused_and_not_wrong():
    adapted, x = layer(), torch.randn(4, 12, dtype=torch.float64, requires_grad=True)
    (dx,) = torch.autograd.grad(adapted(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()


def test_gradients_per_example_by_vmap():
    adapted, x = layer(), torch.randn(3, 5, 12, dtype=torch.float64)
    params = dict(adapted.named_parameters())
    trained = {name: params[name].detach() for name in ("B", "alpha")}

    def loss(trained, x):
        return torch.func.functional_call(adapted, params | trained, (x,)).square().sum()

    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(trained, x)
    for i in range(3):
        alone = torch.autograd.grad(AdaptedLinear.forward(adapted, x[i]).square().sum(), [adapted.B, adapted.alpha])
        torch.testing.assert_close(found["B"][i], alone[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found["alpha"][i], alone[1], rtol=1e-12, atol=1e-12)
