"""The two rooms held together: every kernel, whole models, the optimizer and whole trainings.

PyTorch is part of the test extra: without it this file fails, it does not skip. Only a GPU may be missing.
"""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import Case, cases, draw_case, projected_out, sizes
from test_encoder import BERT, ROBERTA, TYPES, tiny
from test_family import can_move

from tlora_ref import (
    AdapterConfig,
    InputError,
    ShapeError,
    TrainConfig,
    attach,
    by_autograd,
    by_hand,
    evaluate,
    merge,
    train,
    unmerge,
)
from tlora_ref.by_autograd import KERNEL_TWINS, to_numpy, to_torch
from tlora_ref.by_autograd.encoder import delta_w as torch_delta_w
from tlora_ref.by_autograd.optimizers import adamw_init as torch_adamw_init
from tlora_ref.by_autograd.optimizers import adamw_step as torch_adamw_step
from tlora_ref.by_hand.encoder import delta_w
from tlora_ref.by_hand.kernels import KERNELS
from tlora_ref.by_hand.methods import METHODS
from tlora_ref.by_hand.optimizers import adamw_init, adamw_step
from tlora_ref.methods import MATRICES
from tlora_ref.model import upper_layers
from tlora_ref.training import NonFiniteError, clip_gradients, dropout_masks
from tlora_ref.training import clip_gradients as torch_clip_gradients

BOUNDS = {torch.float64: (1e-12, 1e-13), torch.float32: (4e-6, 4e-6), torch.bfloat16: (0.125, 0.125)}
"""Largest error against by_hand in float64, as a share of the largest entry of the array or, where an array (all
but) cancels, as the gradient of the key's bias does, of the largest number of the whole call, whichever is more.
In units of rounding: 4,500 and 450 in float64, 34 in float32, 16 in bfloat16."""

FLOAT64 = BOUNDS[torch.float64]
MERGEABLE = [name for name, method in METHODS.items() if method.mergeable]

no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
every_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=no_gpu)])
"""What runs on a GPU where there is one; tests/test_meta.py runs the same calls where there is none."""
every_op = pytest.mark.parametrize("op", KERNELS.values(), ids=list(KERNELS))
every_method = pytest.mark.parametrize("method", ["none", *METHODS])
every_kind = pytest.mark.parametrize("kind", [{}, {"features": None, "vocab": 7}], ids=["continuous", "ids"])
every_published = pytest.mark.parametrize("kind", [BERT, ROBERTA], ids=["bert", "roberta"])


def assert_close(found, expected, largest, bounds, what):
    """Within ``bounds`` of the array's largest entry or of ``largest``, that of the whole call."""
    assert tuple(found.shape) == np.shape(expected), what
    atol = max(bounds[0] * np.abs(expected).max(initial=0.0), bounds[1] * largest)
    np.testing.assert_allclose(found.double().cpu().numpy(), expected, rtol=0, atol=atol, err_msg=what)


# --- every kernel -------------------------------------------------------------------


def rounded(value, dtype):
    """The nearest numbers that ``dtype`` has, in float64: what is compared is arithmetic, not inputs."""
    real = isinstance(value, np.ndarray) and value.dtype == np.float64
    return torch.from_numpy(value.copy(order="K")).to(dtype).double().numpy() if real else value


def as_tensors(args, device, dtype):
    """The arguments of a case as tensors, in the memory layout they have; reals in ``dtype``."""

    def tensor(value):
        if not isinstance(value, np.ndarray):
            return value
        t = torch.from_numpy(value.copy(order="K")).to(device)
        return t.to(dtype) if t.is_floating_point() else t

    return {name: tensor(value) for name, value in args.items()}


def cancelled(args, dout, largest, eps):
    """The largest number that DoRA with a differentiated norm subtracts from another: the gradient with a constant norm
    loses its part along V = W0 + s A B, and V is itself a sum; its rounding counts by as much as its columns cancel. A
    column of which the digits leave nothing has no direction: such a case is not one."""
    W0_IO, A_IR, B_RO, scale = (args[name] for name in ("W0_IO", "A_IR", "B_RO", "scale"))
    terms_IO = np.abs(W0_IO) + abs(scale) * np.abs(A_IR) @ np.abs(B_RO)
    n_O = np.linalg.norm(W0_IO + scale * A_IR @ B_RO, axis=0)
    times = max(np.linalg.norm(terms_IO, axis=0) / n_O)
    assume(times * eps < 0.25)
    constant = KERNELS["dora_linear"]
    grads = constant.bwd(dout, constant.fwd(**args, norm_O=n_O)[1])
    return times * max(largest, *(np.abs(g).max(initial=0.0) for g in grads.values()))


def run_twin(op, tensors, cotangent):
    """The twin's result, and the gradient of every real argument by the first part of its name, None where there is
    none: everything real asks for one, the frozen arguments too."""
    reals = {arg.base: tensors[arg.name] for arg in op.args if isinstance(tensors[arg.name], torch.Tensor)}
    leaves = {base: t.requires_grad_() for base, t in reals.items() if t.is_floating_point() and base != "keep"}
    found = KERNEL_TWINS[op.name](**tensors)
    gradients = torch.autograd.grad(found, list(leaves.values()), cotangent, allow_unused=True)
    return found, dict(zip(leaves, gradients, strict=True))


def compare(case: Case, device: str, dtype: torch.dtype) -> None:
    """Forward and every gradient of the twin against by_hand in float64."""
    op, bounds = case.op, BOUNDS[dtype]
    args = {name: rounded(value, dtype) for name, value in case.args.items()}
    dout = rounded(np.asarray(case.cotangent()), dtype)
    out, cache = op.fwd(**args)
    grads = op.bwd(dout, cache)
    # the largest number of the call; some ops subtract larger ones: a loss is a difference of logits, and where
    # LayerNorm, DoRA and reflections normalise, what they project out is divided by a norm that can be small
    largest = max(projected_out(case), *(np.abs(a).max(initial=0.0) for a in (out, *grads.values())))
    if op.name == "cross_entropy":
        largest = max(largest, np.abs(args["logits_NV"]).max())
    if op.name == "layer_norm":
        largest *= max(1.0, cache[1].max() ** 2)
    if op.name == "dora_full_linear":
        largest = cancelled(args, dout, largest, torch.finfo(dtype).eps)
    tensors = as_tensors(args, device, dtype)
    found, gradients = run_twin(op, tensors, torch.from_numpy(dout).to(device, dtype))
    assert found.dtype == dtype
    assert found.device.type == device
    assert_close(found.detach(), out, largest, bounds, f"{op.name}")
    # only the declared arguments may get a gradient
    assert {base for base, g in gradients.items() if g is not None} == set(case.differentiable)
    for key in case.differentiable:
        assert gradients[key].dtype == dtype
        assert_close(gradients[key], grads[key], largest * np.abs(dout).max(initial=0.0), bounds, f"{op.name}: d{key}")


@every_device
@every_op
@given(data=st.data())
def test_forward_and_backward_equal_by_hand_in_float64(op, device, data):
    compare(data.draw(cases(op, (1e-3, 1.0, 1e3))), device, torch.float64)


# a ReLU on rounded numbers may stand on the other side of its kink, where the gradient is another one
smooth = [op for op in KERNELS.values() if op.name != "bottleneck_relu"]


@every_device
@pytest.mark.parametrize("op", smooth, ids=lambda op: op.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@settings(max_examples=20)
@given(data=st.data())
def test_fewer_digits_stay_within_their_bound(op, dtype, device, data):
    compare(data.draw(cases(op)), device, dtype)


@every_device
@pytest.mark.parametrize("name", ["softmax", "attention", "mean_pool"])
def test_a_fully_masked_row_gives_zeros_and_finite_gradients(name, device):
    op = KERNELS[name]
    case = draw_case(op, 5, (2,), {"T": 3, "D": 4, "V": 5, "H": 2})
    mask = next(arg.name for arg in op.args if arg.kind == "mask")
    case.args[mask] = np.array([[False] * (5 if name == "softmax" else 3), [True] * (5 if name == "softmax" else 3)])
    compare(case, device, torch.float64)
    out = KERNEL_TWINS[op.name](**as_tensors(case.args, device, torch.float64))
    assert (out[0] == 0).all()
    assert (out[1] != 0).any()


@every_device
def test_gelu_is_exact_in_the_lower_tail(device):
    """There 1 + erf has no digit left; every single entry is compared, not the largest."""
    x = np.linspace(-30.0, -5.0, 101)
    y, cache = KERNELS["gelu"].fwd(x)
    leaf = torch.from_numpy(x).to(device).requires_grad_()
    out = KERNEL_TWINS["gelu"](leaf)
    (gradient,) = torch.autograd.grad(out.sum(), leaf)
    np.testing.assert_allclose(out.detach().cpu().numpy(), y, rtol=1e-11)
    np.testing.assert_allclose(gradient.cpu().numpy(), KERNELS["gelu"].bwd(np.ones(101), cache)["x"], rtol=1e-9)


@every_device
@pytest.mark.parametrize("size", [1e6, -1e6])
def test_enormous_logits_stay_finite(size, device):
    logits = torch.tensor([[size, 0.0, -size], [size, size, size]], dtype=torch.float64, device=device)
    mask = torch.tensor([[True, True, False], [True, True, False]], device=device)
    labels = torch.tensor([2, 0], device=device)
    for call in (
        lambda z: KERNEL_TWINS["softmax"](z, mask).square().sum(),
        lambda z: KERNEL_TWINS["cross_entropy"](z, labels),
    ):
        leaf = logits.clone().requires_grad_()
        value = call(leaf)
        (gradient,) = torch.autograd.grad(value, leaf)
        assert torch.isfinite(value)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("method", MERGEABLE)
def test_the_update_of_the_weight_is_the_same(method):
    model = tiny(adapter=AdapterConfig(method, 3, ("ffn_in",), lora_alpha=2.0))[0]
    twin = to_torch(model)
    for name in model.adapted:
        expected = delta_w(model, name)
        assert np.abs(expected).max() > 1e-2
        assert_close(torch_delta_w(twin, name), expected, 0.0, FLOAT64, name)


@every_op
def test_a_wrong_shape_is_the_same_error(op):
    """Both rooms check against the letters: the sentence is the same, word for word."""
    case = draw_case(op, 3, (4,), {**sizes(np.random.default_rng(3), op), "T": 3, "D": 6, "H": 2})
    names = [a.name for a in op.args if a.kind == "real" and a.letters and case.args[a.name] is not None]
    for name in names:
        args = {**case.args, name: case.args[name].reshape(-1)[:1].reshape(())}
        with pytest.raises(ShapeError) as by_hand_error:
            op.fwd(**args)
        with pytest.raises(ShapeError) as twin_error:
            KERNEL_TWINS[op.name](**as_tensors(args, "cpu", torch.float64))
        assert str(twin_error.value) == str(by_hand_error.value)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("embedding", (torch.tensor([0, 4]), torch.ones(4, 2)), "values from 0 to 4, expected 0 to 3"),
        ("embedding", (torch.tensor([0.0]), torch.ones(4, 2)), "dtype float32, expected integers"),
        ("cross_entropy", (torch.ones(2, 3), torch.tensor([0, -1])), "values from -1 to 0, expected 0 to 2"),
        ("cross_entropy", (torch.ones(0, 3), torch.ones(0, dtype=torch.int64)), "a mean over no rows"),
        ("softmax", (torch.ones(2, 3), torch.ones(2, 3)), "dtype float32, expected bool"),
        ("softmax", (torch.ones(2, 3), torch.ones(3, 3) > 0), r"mask_NV has shape \(3, 3\), so N"),
        ("attention", (*[torch.ones(2, 4)] * 3, 3), "3 heads do not divide q_NTD's last axis, D = 4"),
    ],
)
def test_bad_input_is_named(name, args, message):
    with pytest.raises(InputError, match=message):
        KERNEL_TWINS[name](*args)


# --- whole models --------------------------------------------------------------------------------


def assert_models_agree(model, inputs, labels, mask, keep, device, types=None):
    loss, grads, logits = by_hand.loss_and_grads(model, inputs, labels, mask, keep, types)
    twin = to_torch(model, device)
    assert {name for name, p in twin.params.items() if p.requires_grad} == model.trained
    assert all(p.is_leaf for p in twin.params.values())
    found_loss, found, found_logits = by_autograd.loss_and_grads(twin, inputs, labels, mask, keep, types)
    assert_close(found_logits, logits, 0.0, FLOAT64, "logits")
    assert_close(found_loss, loss, 0.0, FLOAT64, "loss")
    assert set(found) == set(grads) == model.trained
    largest = max(np.abs(g).max() for g in grads.values())
    for name, g in grads.items():
        assert_close(found[name], g, largest, FLOAT64, name)


@every_device
@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**16),
    method=st.sampled_from(["none", *METHODS]),
    rank=st.integers(1, 5),
    places=st.sets(st.integers(0, 5), min_size=1),
    layers=st.sampled_from([None, (0,), (1,)]),
    dropout=st.sampled_from([0.0, 0.25]),
    kind=st.sampled_from([{}, {"features": None, "vocab": 7}]),
    pool=st.sampled_from(["mean", "first"]),
    causal=st.booleans(),
    masked=st.booleans(),
    eps=st.sampled_from([1e-5, 1e-2]),
)
def test_logits_loss_and_every_gradient_of_a_model_agree(
    device, seed, method, rank, places, layers, dropout, kind, pool, causal, masked, eps
):
    adapter = None
    if method != "none":
        there = METHODS[method].places
        targets = tuple(sorted({there[place % len(there)] for place in places}))
        dropout = dropout if METHODS[method].keep else 0.0
        adapter = AdapterConfig(method, rank, targets, layers, dropout, lora_alpha=2.0)
    also = ("head.W", "position.W", "layers.1.ffn_norm.gamma") if adapter and seed % 2 else ()
    model, inputs, labels, mask = tiny(seed, adapter, also, pool=pool, causal=causal, eps=eps, **kind)
    keep = dropout_masks(model, np.random.default_rng(seed), (3, 4))
    assert_models_agree(model, inputs, labels, mask if masked else None, keep, device)


@every_device
@every_published
@pytest.mark.parametrize("adapter", [None, AdapterConfig(rank=2, dropout=0.25)], ids=["full", "tlora"])
def test_encoders_like_published_ones_agree(kind, adapter, device):
    model, inputs, labels, mask = tiny(1, adapter, **kind)
    types = TYPES % model.config.types
    keep = dropout_masks(model, np.random.default_rng(1), (3, 4))
    assert_models_agree(model, inputs, labels, mask, keep, device, types)
    assert_models_agree(model, inputs, labels, mask, keep, device)
    for layer in (None, 0, 1):
        found = by_autograd.hidden_states(to_torch(model, device), inputs, mask, types, layer)
        assert_close(found, by_hand.hidden_states(model, inputs, mask, types, layer), 0.0, FLOAT64, "hidden states")
    base = tiny(1, **kind)[0]
    upper = attach(upper_layers(base, 1), AdapterConfig(rank=2))
    x_NTD = by_hand.hidden_states(base, inputs, mask, types, 1)
    assert_models_agree(upper, x_NTD, labels, mask, {}, device)


def test_dropout_masks_reach_the_twin():
    """The agreement above would also hold if both rooms ignored the masks."""
    model, inputs, _, _ = tiny(adapter=AdapterConfig(rank=3, dropout=0.5))
    keep = dropout_masks(model, np.random.default_rng(0), (3, 4))
    twin = to_torch(model)
    with torch.no_grad():
        change = by_autograd.encoder(twin, inputs, keep=keep) - by_autograd.encoder(twin, inputs)
    assert change.abs().max() > 1e-3


@pytest.mark.parametrize("method", MERGEABLE)
def test_merging_is_the_same_and_unmerging_exact(method):
    model, inputs, _, mask = tiny(adapter=AdapterConfig(method, 3, MATRICES, lora_alpha=2.0))
    twin = to_torch(model)
    merged = merge(by_autograd, twin)
    for name in model.adapted:
        assert_close(merged.params[f"{name}.W"], merge(by_hand, model).params[f"{name}.W"], 0.0, FLOAT64, name)
    with torch.no_grad():
        logits, plain = by_autograd.encoder(twin, inputs, mask), by_autograd.encoder(merged, inputs, mask)
    torch.testing.assert_close(plain, logits, rtol=0, atol=1e-12)
    back = to_numpy(unmerge(merged))
    for name, array in model.params.items():
        np.testing.assert_array_equal(back.params[name], array)
    carried = to_numpy(to_torch(merge(by_hand, model)))
    np.testing.assert_array_equal(unmerge(carried).params["layers.0.key.W"], model.params["layers.0.key.W"])
    with pytest.raises(InputError, match="already merged"):
        merge(by_autograd, merged)
    with pytest.raises(InputError, match="no adapter"):
        merge(by_autograd, to_torch(tiny()[0]))
    with pytest.raises(InputError, match=r"no gradient with respect to (layers\.0|shared)"):
        by_autograd.loss_and_grads(merged, inputs, np.array([0, 1, 2]))


def test_what_trains_is_what_the_model_names():
    """Naming other arrays is enough, in either room: no requires_grad has to be set by hand."""
    model, inputs, labels, mask = tiny(adapter=AdapterConfig(rank=2))
    names = {"layers.1.value.alpha", "head.b"}
    expected = by_hand.loss_and_grads(model.training(names), inputs, labels, mask)[1]
    found = by_autograd.loss_and_grads(to_torch(model).training(names), inputs, labels, mask)[1]
    assert set(found) == set(expected) == names
    for name, g in expected.items():
        assert_close(found[name], g, 0.0, FLOAT64, name)
    assert by_autograd.loss_and_grads(to_torch(model).training([]), inputs, labels, mask)[1] == {}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_door_between_the_rooms_copies_every_bit(dtype):
    model = tiny(adapter=AdapterConfig(rank=2), train_also=["head.b"], dtype=dtype)[0]
    twin = to_torch(model)
    back = to_numpy(twin)
    with torch.no_grad():
        for p in twin.params.values():
            p.add_(1.0)
    for name, array in model.params.items():
        assert back.params[name].dtype == dtype
        np.testing.assert_array_equal(back.params[name], array, err_msg=name)
    assert (back.config, back.trained, back.adapter) == (model.config, model.trained, model.adapter)
    half = to_torch(model, dtype=torch.bfloat16)
    assert {p.dtype for p in half.params.values()} == {torch.bfloat16}
    assert to_numpy(half).params["head.W"].dtype == np.float32


@pytest.mark.parametrize("device", ["cuda:99", "abacus", "meta"])
def test_a_device_that_is_not_there_is_named(device):
    with pytest.raises(InputError, match=rf"device is '{device}', expected one of this machine's: cpu"):
        to_torch(tiny()[0], device)


@pytest.mark.parametrize("dtype", [np.int16, np.uint32, np.int64])
def test_any_whole_numbers_serve_as_ids_and_labels(dtype):
    model, inputs, labels, mask = tiny(features=None, vocab=7)
    expected = by_autograd.loss_and_grads(to_torch(model), inputs, labels, mask)[0]
    backwards = inputs.astype(dtype)[:, ::-1].copy()[:, ::-1]
    assert by_autograd.loss_and_grads(to_torch(model), backwards, labels.astype(dtype), mask)[0] == expected


# --- the optimizer and the training loop ---------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_torchs_adamw_takes_the_steps_of_the_one_by_hand(dtype):
    """Gradients over eight decades, a learning rate that moves, decay with and without exemption."""
    rng = np.random.default_rng(0)
    config = TrainConfig(lr=1e-2, weight_decay=0.1, no_decay=("alpha", "b"), betas=(0.8, 0.99), eps=1e-6)
    shapes = {"m.alpha": (), "m.B": (3, 4), "m.b": (4,), "head.W": (2, 3)}
    params = {name: np.asarray(rng.standard_normal(shape), dtype) for name, shape in shapes.items()}
    tensors = {name: torch.from_numpy(p.copy()).requires_grad_() for name, p in params.items()}
    state, optimizer = adamw_init(params, config), torch_adamw_init(tensors, config)
    for step in range(12):
        scale = 10.0 ** rng.integers(-7, 2)
        grads = {name: np.asarray(scale * rng.standard_normal(p.shape), dtype) for name, p in params.items()}
        lr = config.lr * (12 - step) / 12
        before = params
        params = adamw_step(params, grads, state, lr, config)
        torch_adamw_step(tensors, {name: torch.from_numpy(g) for name, g in grads.items()}, optimizer, lr, config)
        for name, p in params.items():
            bound = (step + 1) * 4 * np.finfo(dtype).eps
            np.testing.assert_allclose(tensors[name].detach().numpy(), p, rtol=bound, atol=bound * lr, err_msg=name)
            assert (p != before[name]).all()


def test_clipping_is_the_same():
    rng = np.random.default_rng(1)
    grads = {name: rng.standard_normal(shape) for name, shape in {"a": (3, 4), "b": ()}.items()}
    grads = {name: np.asarray(g) for name, g in grads.items()}
    for largest in (0.5, 100.0):
        found = torch_clip_gradients({name: torch.from_numpy(g) for name, g in grads.items()}, largest)
        for name, g in clip_gradients(grads, largest).items():
            np.testing.assert_allclose(found[name].numpy(), g, rtol=1e-14)


def data(model, n=18, seed=3):
    rng = np.random.default_rng(seed)
    vocab = model.config.vocab
    inputs = rng.integers(0, vocab, (n, 4)) if vocab else rng.standard_normal((n, 4, 3))
    return inputs, rng.integers(0, 3, n), np.arange(4) < rng.integers(1, 5, (n, 1))


def flat(history):
    """Every curve of a history by name: "loss", "alpha layers.0.query", ..."""
    curves = {}
    for key, value in vars(history).items():
        curves |= {f"{key} {name}": c for name, c in value.items()} if isinstance(value, dict) else {key: value}
    return curves


CONFIG = TrainConfig(epochs=4, batch_size=4, lr=1e-2, weight_decay=0.05, no_decay=("alpha",), clip=1.0, seed=5)


def adapter_of(method):
    """Three ranks wherever the method can sit, with dropout if it has any; None for "none"."""
    if method == "none":
        return None
    return AdapterConfig(method, 3, METHODS[method].places, dropout=0.3 if METHODS[method].keep else 0.0)


@every_device
@every_kind
@every_method
def test_twenty_steps_leave_the_same_parameters(method, kind, device):
    """Dropout, weight decay, clipping, warm-up and decay on: 20 AdamW steps, parameters equal to 1e-9."""
    adapter = adapter_of(method)
    model = tiny(adapter=adapter, train_also=["head.W"] if adapter else (), **kind)[0]
    config = CONFIG if method == "tlora" else TrainConfig(**{**vars(CONFIG), "no_decay": ()})
    inputs, labels, mask = data(model)
    validation = (inputs[:7], labels[:7])
    expected, history = train(by_hand, model, inputs, labels, config, mask, validation)
    twin = to_torch(model, device)
    before = {name: p.detach().clone() for name, p in twin.params.items()}
    found, found_history = train(by_autograd, twin, inputs, labels, config, mask, validation)
    assert len(history.loss) == 20
    for name, p in expected.params.items():
        assert (p != model.params[name]).any() == can_move(model, name), name
        theirs, atol = found.params[name].detach().cpu().numpy(), 1e-9 if name in model.trained else 0
        np.testing.assert_allclose(theirs, p, rtol=0, atol=atol, err_msg=name)
        assert torch.equal(twin.params[name].detach(), before[name]), f"{name} of the model given"
    curves, found_curves = flat(history), flat(found_history)
    assert set(found_curves) == set(curves)
    for name, values in curves.items():
        np.testing.assert_allclose(found_curves[name], values, rtol=0, atol=1e-9, err_msg=name)
    np.testing.assert_allclose(
        evaluate(by_autograd, found, inputs, labels, mask, batch_size=5),
        evaluate(by_hand, expected, inputs, labels, mask),
    )


def test_the_same_seed_gives_the_same_bits():
    model = to_torch(tiny(adapter=AdapterConfig(rank=2, dropout=0.5), dtype=np.float32)[0])
    inputs, labels, _ = data(model)
    runs = [train(by_autograd, model, inputs, labels, TrainConfig(epochs=2, batch_size=5, seed=s)) for s in (1, 1, 2)]
    for name in model.trained:
        assert torch.equal(runs[0][0].params[name], runs[1][0].params[name])
    assert runs[0][1] == runs[1][1]
    assert runs[0][1].loss != runs[2][1].loss


def test_what_cannot_be_trained_is_the_same_error():
    model = tiny(adapter=AdapterConfig(rank=2, targets=MATRICES))[0]
    inputs, labels, _ = data(model)
    broken = model.with_params({"layers.0.key.B": np.full((2, 2), np.nan)})
    far = np.where(inputs == inputs[2, 1, 0], np.nan, inputs)
    trials = [
        (lambda m: m, inputs, TrainConfig(no_decay=("alhpa",)), InputError),
        (lambda m: m.training([]), inputs, CONFIG, InputError),
        (lambda m: m, inputs[..., :2], CONFIG, ShapeError),
        (lambda m: m, far, CONFIG, NonFiniteError),
    ]
    for change, x, config, kind in trials:
        messages = []
        for room, m in ((by_hand, model), (by_autograd, to_torch(model))):
            with pytest.raises(kind) as error:
                train(room, change(m), x, labels, config)
            messages.append(str(error.value))
        assert messages[0] == messages[1]
    with pytest.raises(NonFiniteError, match=r"step 0.*not finite is layers.0.key.B"):
        train(by_autograd, to_torch(broken), inputs, labels, CONFIG)
    with pytest.raises(InputError, match="unmerge it before training"):
        train(by_autograd, merge(by_autograd, to_torch(model)), inputs, labels, CONFIG)
