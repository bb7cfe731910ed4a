"""What a first run on a GPU finds, found without one: every call that has a test on a GPU stays on torch's meta device,
where tensors have no numbers (tests/on_meta.py). Last, the watch itself on calls that leave the device.

The lists are those of the tests on a GPU in tests/test_twin.py, and one test holds that none of these is left out.
"""

from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from on_meta import META, HostError, nothing_from_the_host, on_meta
from test_encoder import TYPES, tiny
from test_twin import adapter_of, as_tensors, every_kind, every_method, every_op, every_published, run_twin
from tiny import ON_MATRICES, inputs, net, scramble
from torch.utils._python_dispatch import TorchDispatchMode

from tlora_ref import AdapterConfig, InputError, TrainConfig, by_autograd, by_hand, fold, train
from tlora_ref import merge as merge_encoder
from tlora_ref.by_autograd import KERNEL_TWINS, ops, to_torch
from tlora_ref.by_autograd.inject import adapted, disable, inject, merge, remove, unmerge
from tlora_ref.by_hand.kernels import KERNELS
from tlora_ref.by_hand.methods import METHODS
from tlora_ref.chains import begin_link
from tlora_ref.growth import grow
from tlora_ref.room import Optimizer
from tlora_ref.training import dropout_masks
from tlora_ref.verification.scenarios import scenarios

# --- every kernel, every encoder ------------------------------------------------------------------


NUMBERS_ALONE = ("Fortran order", "float32", "initial point")
"""Scenarios that differ from another one in their numbers only, or in what the dtype here replaces."""


def assert_twin_stays(op, dtype=torch.bfloat16):
    for name, case in scenarios(op):
        if name in NUMBERS_ALONE:
            continue
        tensors, cotangent = as_tensors(case.args, META, dtype), on_meta(case.cotangent()).to(dtype)
        with nothing_from_the_host():
            found, gradients = run_twin(op, tensors, cotangent)
        assert (found.device.type, tuple(found.shape), found.dtype) == (META, case.out_shape, dtype), name
        given = {base: g for base, g in gradients.items() if g is not None}
        assert {base: tuple(g.shape) for base, g in given.items()} == {
            base: np.shape(a) for base, a in case.differentiable.items()
        }, name
        assert all(g.is_meta and g.dtype == dtype for g in given.values()), name


@every_op
def test_every_twin_and_its_gradients_stay_on_the_device(op):
    assert_twin_stays(op)


def batch(method, kind):
    """A model of one layer (NumPy), and (inputs, labels, mask, dropout masks, types) on the meta device."""
    adapter = adapter_of(method)
    model, x, labels, mask = tiny(adapter=adapter, train_also=["head.W"] if adapter else (), layers=1, **kind)
    keep = dropout_masks(model, np.random.default_rng(0), mask.shape)
    types = TYPES % model.config.types if model.config.types else None
    return model, [on_meta(each) for each in (x, labels, mask, keep, types)]


def shapes_of(model):
    """The shapes of what trains."""
    return {name: model.params[name].shape for name in model.trained}


KINDS = [*every_kind.args[1], *every_published.args[1]]
MERGEABLE = [name for name, method in METHODS.items() if method.mergeable]


@pytest.mark.parametrize("kind", KINDS, ids=["continuous", "ids", "bert", "roberta"])
@pytest.mark.parametrize("method", ["none", "tlora"])
def test_every_kind_of_encoder_stays_on_the_device(method, kind):
    arrays, (x, labels, mask, keep, types) = batch(method, kind)
    model = on_meta(to_torch(arrays))
    with nothing_from_the_host():
        loss, grads, logits = by_autograd.loss_and_grads(model, x, labels, mask, keep, types)
        hidden = by_autograd.hidden_states(model, x)
    assert (tuple(loss.shape), tuple(logits.shape), tuple(hidden.shape)) == ((), (3, 3), (3, 4, 6))
    assert {name: tuple(g.shape) for name, g in grads.items()} == shapes_of(arrays)


@pytest.mark.parametrize("method", MERGEABLE)
def test_merging_and_running_the_merged_encoder_stays_on_the_device(method):
    arrays, (x, *_) = batch(method, {})
    model = on_meta(to_torch(arrays))
    with nothing_from_the_host():
        assert by_autograd.encoder(merge_encoder(by_autograd, model), x).is_meta
        assert all(p.is_meta for p in fold(by_autograd, model).params.values())


# --- training steps -------------------------------------------------------------------------------


def optimizers_of(method):
    """The optimizers that a method can be trained with."""
    if method == "none":
        return ["adamw"]
    return sorted({"adamw", METHODS[method].optimizer} | ({"lora_rite"} if METHODS[method].product else set()))


CONFIG = TrainConfig(lr=1e-2, weight_decay=0.05)
TRAINED = [(method, optimizer) for method in every_method.args[1] for optimizer in optimizers_of(method)]


class Steps:
    """Training steps of a model on the meta device, as training.train takes them but for what it reads: the loss, and
    whether all is finite."""

    def __init__(self, arrays, data, optimizer="adamw"):
        self.data, self.optimizer = data, by_autograd.OPTIMIZERS[optimizer]
        start = on_meta(to_torch(arrays))
        with nothing_from_the_host():
            self.model = by_autograd.own(start)
            self.state = self.optimizer.init(self.params, CONFIG)

    @property
    def params(self):
        return {name: self.model.params[name] for name in sorted(self.model.trained)}

    def take(self, steps=1):
        """The gradients, and steps with them."""
        x, labels, mask, keep, types = self.data
        with nothing_from_the_host():
            _, grads, _ = by_autograd.loss_and_grads(self.model, x, labels, mask, keep, types)
        for _ in range(steps):
            with nothing_from_the_host(counting=True):
                params = self.optimizer.step(self.params, grads, self.state, 1e-2, CONFIG)
            assert all(p.is_meta for p in params.values())
            self.model = self.model.with_params(params)

    def become(self, arrays):
        """Another model from here on, whose arrays come from the host."""
        before, self.model = self.params, by_autograd.own(arrays, like=self.model)
        assert {n: tuple(p.shape) for n, p in self.params.items()} == shapes_of(arrays)
        assert all(p.is_meta for p in self.model.params.values())
        with nothing_from_the_host(counting=True):
            self.state = self.optimizer.carry(self.state, before, self.params, CONFIG)


@pytest.mark.parametrize(("method", "optimizer"), TRAINED)
def test_every_training_step_stays_on_the_device(method, optimizer):
    Steps(*batch(method, {}), optimizer).take(2)


def test_a_step_after_the_rank_has_grown_stays_on_the_device():
    arrays, data = batch("triadapt", {})
    steps = Steps(arrays, data)
    steps.take()
    steps.become(grow(arrays, list(arrays.adapted)[:2]))
    steps.take()


@pytest.mark.parametrize(("optimizer", "chain"), [("adamw", "rac"), ("lora_rite", "xgblora")])
def test_a_step_after_a_link_of_a_chain_stays_on_the_device(optimizer, chain):
    arrays, data = batch("lora", {})
    steps = Steps(arrays, data, optimizer)
    steps.take()
    steps.become(begin_link(by_hand, arrays, chain, 0, 1))
    steps.take()


class Reads(TorchDispatchMode):
    """How often a number is read from a tensor."""

    count = 0

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.count += op is torch.ops.aten._local_scalar_dense.default
        return op(*args, **(kwargs or {}))


def test_the_loop_reads_as_many_numbers_however_many_arrays_train():
    """Each of them is a wait on a GPU. The optimizers are left out: torch's count on the CPU."""
    standing = Optimizer(lambda params, config: None, lambda params, *_: dict(params), lambda *_: None)
    room, found = SimpleNamespace(**{**vars(by_autograd), "OPTIMIZERS": {"adamw": standing}}), {}
    for targets in (("query",), ("query", "key", "value", "ffn_in")):
        model, x, labels, _ = tiny(adapter=AdapterConfig(rank=2, targets=targets))
        with Reads() as reads:
            train(room, to_torch(model), x, labels, TrainConfig(epochs=2, batch_size=3, clip=1.0, weight_decay=0.0))
        found[len(model.trained)] = reads.count - 2 * 3 * len(model.adapted)  # alpha and |B| of every epoch's record
    assert len(found) == 2
    assert len(set(found.values())) == 1


# --- injected layers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "dtype"), [(method, torch.float32) for method in ON_MATRICES] + [("dora", torch.bfloat16)]
)
def test_every_injected_layer_stays_on_the_device(method, dtype):
    """Made on the CPU, where its arrays are drawn, and moved: on the meta device nothing is drawn."""
    model, x = net(dtype=dtype), inputs(dtype=dtype).to(META).requires_grad_()
    inject(model, ("query", "value", "mix"), 3, dropout=0.3 if METHODS[method].keep else 0.0, method=method)
    scramble(model).to(META)
    trained = [p for p in model.parameters() if p.requires_grad]

    def back(value):
        """The gradients of what trains, and of x."""
        assert value.dtype == dtype
        value.sum().backward()
        for leaf in (*trained, x):
            assert leaf.grad.is_meta
            leaf.grad = None

    with nothing_from_the_host():
        for training in (True, False):
            model.train(training)
            back(model(x))
        # a model that reads the weight of a layer in place of calling it
        back(sum((layer.weight * x[0, 0, 0]).sum() for layer in adapted(model)))
        merge(model)
        assert model(x).is_meta
        unmerge(model)
        with disable(model):
            assert model(x).is_meta
        remove(model)
        assert model(x).is_meta


# --- the lists ------------------------------------------------------------------------------------

KERNELS_HERE = test_every_twin_and_its_gradients_stay_on_the_device
STEPS_HERE = test_every_training_step_stays_on_the_device
COVERED = {
    "test_twin.test_forward_and_backward_equal_by_hand_in_float64": KERNELS_HERE,
    "test_twin.test_fewer_digits_stay_within_their_bound": KERNELS_HERE,
    "test_twin.test_a_fully_masked_row_gives_zeros_and_finite_gradients": None,
    "test_twin.test_gelu_is_exact_in_the_lower_tail": None,
    "test_twin.test_enormous_logits_stay_finite": None,
    "test_twin.test_logits_loss_and_every_gradient_of_a_model_agree": STEPS_HERE,
    "test_twin.test_encoders_like_published_ones_agree": test_every_kind_of_encoder_stays_on_the_device,
    "test_twin.test_twenty_steps_leave_the_same_parameters": STEPS_HERE,
    "test_bench.test_every_mode_runs_on_a_device": test_every_injected_layer_stays_on_the_device,
    "test_glue.test_on_a_gpu_a_run_is_near_the_cpus_and_goes_on_to_the_same_bits": None,
}
"""The tests on a GPU, and what runs the same calls here; None where it is all about numbers or files."""


def runs_on_a_gpu(test):
    """Is the test skipped, or one of its parameters, where there is no GPU?"""
    marks = getattr(test, "pytestmark", [])
    skips = [mark for mark in marks if mark.name == "skipif"]
    for mark in marks:
        if mark.name == "parametrize":
            skips += [each for value in mark.args[1] for each in getattr(value, "marks", ()) if each.name == "skipif"]
    absent = not torch.cuda.is_available()
    return any("CUDA device" in mark.kwargs["reason"] and mark.args[0] is absent for mark in skips)


def test_every_test_on_a_gpu_has_its_like_here():
    files = [path.stem for path in Path(__file__).parent.glob("test_*.py") if "cuda.is_available" in path.read_text()]
    found = {
        f"{file}.{name}"
        for file in files
        if file != Path(__file__).stem
        for name, test in vars(import_module(file)).items()
        if name.startswith("test_") and runs_on_a_gpu(test)
    }
    assert found == set(COVERED)


# --- the watch ------------------------------------------------------------------------------------

ON_THE_CPU, SCALAR_ON_THE_CPU, HALVES = torch.ones(3), torch.tensor(0.5), np.full(3, 0.5)


class CpuInBackward(torch.autograd.Function):
    """x, with a gradient that begins on the CPU."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, dy):
        return dy + torch.zeros(dy.shape).to(dy.device)


class ReadInBackward(CpuInBackward):
    """x, with a gradient that is looked at."""

    @staticmethod
    def backward(ctx, dy):
        return dy if dy.sum() > 0 else 0 * dy


LEAVE = {
    "a constant on the CPU": lambda x: x + ON_THE_CPU,
    "a scalar on the CPU": lambda x: x * SCALAR_ON_THE_CPU,
    "a bound on the CPU": lambda x: x.clamp(min=SCALAR_ON_THE_CPU),
    "item": lambda x: x * x.sum().item(),
    "float": lambda x: x * float(x.sum()),
    "an if": lambda x: x if x.sum() > 0 else -x,
    "all finite?": lambda x: x if x.isfinite().all() else -x,
    "tolist": lambda x: x * x.sum(dim=-1).tolist()[0],
    "numpy": lambda x: x * x.detach().numpy().sum(),
    "to the CPU": lambda x: x + x.cpu().to(x.device),
    "zeros without a device": lambda x: x + torch.zeros(()),
    "zeros that are moved": lambda x: x + torch.zeros(3).to(x.device),
    "arange without a device": lambda x: x[torch.arange(2)],
    "NumPy's numbers": lambda x: x * torch.from_numpy(HALVES).to(x.device),
    "NumPy's numbers, there at once": lambda x: x * torch.tensor(HALVES, device=x.device),
    "Python's numbers": lambda x: x * torch.tensor([0.5, 0.5, 0.5], device=x.device),
    "one number of Python's": lambda x: x * torch.tensor(0.5, device=x.device),
    "as_tensor": lambda x: x * torch.as_tensor(0.5, device=x.device),
    "new_tensor": lambda x: x * x.new_tensor([0.5]),
    "an index of NumPy's": lambda x: x[np.array([1, 0])],
    "an index in a list": lambda x: x[..., [1, 0]],
    "as many as there are": lambda x: x[x > 0],
    "the CPU in the backward": CpuInBackward.apply,
    "a look in the backward": ReadInBackward.apply,
}

STAY = {
    "Python's numbers": lambda x: 2 * x + 0.5,
    "NumPy's number": lambda x: x * np.float64(0.5),
    "zeros there": lambda x: x + torch.zeros(3, device=x.device) + torch.ones_like(x) + x.new_full((), 0.5),
    "slices and steps": lambda x: x[..., :2, None][..., ::2, 0],
    "an index made there": lambda x: x[..., torch.arange(2, device=x.device)],
    "a choice there": lambda x: torch.where(x > 0, x, 0.0).masked_fill(x < -1, -1.0),
}


def call(function, counting=False):
    x = torch.ones(2, 3, device=META, requires_grad=True)
    with nothing_from_the_host(counting):
        torch.autograd.grad(function(x).sum(), x)


@pytest.mark.parametrize("name", LEAVE)
def test_a_call_that_leaves_the_device_is_refused(name):
    with pytest.raises(HostError):
        call(LEAVE[name])
    with pytest.raises(HostError):
        call(LEAVE[name], counting=True)


@pytest.mark.parametrize("name", STAY)
def test_a_call_that_stays_is_not(name):
    call(STAY[name])


@pytest.mark.parametrize("name", ["a scalar on the CPU", "item", "zeros without a device"])
def test_a_twin_that_leaves_the_device_is_found(monkeypatch, name):
    gelu = KERNEL_TWINS["gelu"]
    monkeypatch.setitem(KERNEL_TWINS, "gelu", lambda x_NF: gelu(LEAVE[name](x_NF)))
    with pytest.raises(HostError):
        assert_twin_stays(KERNELS["gelu"])


def test_counting_is_allowed_to_optimizers_and_nothing_more():
    def count():
        steps = torch.tensor(0.0, dtype=torch.float32)
        steps += 1
        return steps.item()

    with nothing_from_the_host(counting=True):
        assert count() == 1.0
        with pytest.raises(HostError):
            torch.zeros(2)
    with pytest.raises(HostError), nothing_from_the_host():
        count()


# --- ids, which only the CPU looks at ---------------------------------------------------------------


def test_ids_of_numpy_are_looked_at_before_they_are_on_the_device():
    """A number of the device's would have to be read; torch's own assertion there takes the program with it."""
    arrays, x, labels, _ = tiny(features=None, vocab=7)
    model = on_meta(to_torch(arrays))
    with pytest.raises(InputError, match="inputs has values from 0 to 9, expected 0 to 6"):
        by_autograd.encoder(model, np.where(x == x[0, 0], 9, 0))
    with pytest.raises(InputError, match="labels_N has values from 3 to 3, expected 0 to 2"):
        by_autograd.loss_and_grads(model, x, np.full_like(labels, 3))
    with pytest.raises(InputError, match="dtype float64, expected integers"):
        by_autograd.encoder(model, on_meta(x).double())


def test_no_label_is_left_out_where_nothing_looks_at_labels(monkeypatch):
    """torch leaves -100 out of a mean, unasked."""
    monkeypatch.setattr(ops, "check_ids", lambda *_: None)
    with pytest.raises(IndexError, match="-100 is out of bounds"):
        ops.cross_entropy(torch.ones(2, 3), torch.tensor([-100, 1]))
