"""What must not fail in silence when adapters sit in other people's models: heads, buffers, weights that are read,
fused modules, wrappers, the meta device, files for another base."""

import copy
import io
import re
import warnings

import pytest
import torch
from tiny import bits, inputs, net, scramble
from torch import nn
from torch.nn.functional import linear

from tlora_ref import InputError
from tlora_ref.by_autograd import linear as linear_module
from tlora_ref.by_autograd import load_adapter, save_adapter
from tlora_ref.by_autograd.inject import adapted, disable, inject, merge, merge_and_unload, remove, unmerge
from tlora_ref.by_autograd.linear import treat_as_linear
from tlora_ref.by_autograd.verify import verify

TARGETS = ("query", "value", "mix")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(7)


def injected(base=None, **options):
    model = net() if base is None else base
    inject(model, **{"targets": TARGETS, "rank": 3} | options)
    return scramble(model)


def gap(a, b):
    return (a.detach().double() - b.detach().double()).abs().max().item()


def scramble_beside(model):
    """Move what trains beside the adapters, too."""
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p))
    return model


class Pooled(nn.Module):
    """A linear layer, and a head with a BatchNorm."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(5, 4)
        self.head = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3))

    def forward(self, x):
        return self.head(self.body(x))


def pooled():
    torch.manual_seed(0)
    return Pooled().eval()


# --- what trains beside the adapters ---------------------------------------------------------------


@pytest.mark.parametrize("merged", [False, True])
def test_remove_and_disable_give_the_base_back_with_its_own_head(merged):
    model, base, x = net(), net(), inputs()
    inject(model, TARGETS, rank=3, train_also=("classifier",))
    scramble_beside(scramble(model))
    if merged:
        merge(model)
    y, before = model(x), bits(model)
    assert gap(y, base(x)) > 1e-3
    with disable(model):
        assert torch.equal(model(x), base(x))
        with disable(model):
            assert torch.equal(model(x), base(x))
        assert torch.equal(model(x), base(x))
    assert torch.equal(model(x), y)
    assert bits(model) == before
    with pytest.raises(KeyError), disable(model):
        raise KeyError
    assert torch.equal(model(x), y)
    remove(model)
    assert bits(model) == bits(base)


def test_a_head_does_not_leak_into_the_next_adapter(tmp_path):
    model, x = net(), inputs()
    inject(model, TARGETS, rank=3)
    save_adapter(scramble(model), tmp_path / "without a head")
    expected = model(x)
    remove(model)
    inject(model, TARGETS, rank=3, train_also=("classifier",))
    scramble_beside(scramble(model))
    remove(model)
    load_adapter(model, tmp_path / "without a head")
    assert torch.equal(model(x), expected)


def test_the_statistics_of_a_named_batch_norm_belong_to_the_adapter(tmp_path):
    model, base = pooled(), pooled()
    told = inject(model, ("body",), rank=2, train_also=("head",))
    assert {"head.0.running_mean", "head.0.running_var", "head.0.num_batches_tracked"} <= set(told.also)
    x = 3 + 2 * torch.randn(32, 5)
    scramble_beside(scramble(model))
    model.train()(x)
    y = model.eval()(x)
    save_adapter(model, tmp_path / "a")
    assert torch.equal(load_adapter(pooled(), tmp_path / "a")(x), y)
    with disable(model):
        assert torch.equal(model(x), base(x))
    remove(model)
    assert bits(model) == bits(base)


def test_a_tied_parameter_is_trained_and_stored_under_all_of_its_names(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.body, self.out = nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 7, bias=False)
            self.out.weight = self.embed.weight

        def forward(self, ids):
            return self.out(self.body(self.embed(ids)))

    def tied():
        torch.manual_seed(0)
        return Tied()

    model, ids = tied(), torch.arange(7)
    told = inject(model, ("body",), rank=2, train_also=("embed",))
    assert told.also == ("embed.weight", "out.weight")
    assert told.counts.trained == 2 * 2 + 1 + 7 * 4
    scramble_beside(scramble(model))
    save_adapter(model, tmp_path / "a")
    again = load_adapter(tied(), tmp_path / "a")
    assert torch.equal(again(ids), model(ids))
    assert again.embed.weight is again.out.weight


# --- merging for good -------------------------------------------------------------------------------


@pytest.mark.parametrize("merged", [False, True])
def test_merge_and_unload_leaves_a_model_without_adapters_that_computes_the_same(merged):
    model, base, x = injected(), net(), inputs()
    y = model(x)
    if merged:
        merge(model)
    names = set(base.state_dict())
    assert merge_and_unload(model) is model
    assert set(model.state_dict()) == names
    assert gap(model(x), y) < 1e-5
    assert gap(model(x), base(x)) > 1e-3
    plain = net()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(plain(x), model(x))
    inject(model, ("query",), rank=2)  # and on from there


def test_merging_for_good_refuses_a_tied_weight_and_what_is_not_finite():
    model = net()
    model.tied = nn.Linear(7, 5, bias=False)
    model.tied.weight = model.blocks[0].query.weight
    injected(model)
    before = bits(model)
    with pytest.raises(InputError, match=r"the weight of blocks\.0\.query is tied to tied\.weight"):
        merge_and_unload(model)
    assert bits(model) == before
    model = injected()
    with torch.no_grad():
        model.blocks[1].value.B.fill_(float("inf"))
    before = bits(model)
    with pytest.raises(InputError, match=r"dW of blocks\.1\.value is not finite"):
        merge_and_unload(model)
    assert bits(model) == before


def test_save_pretrained_of_an_adapted_model_is_refused_and_a_checkpoint_warns(tmp_path):
    from transformers import BertConfig, BertModel

    model = BertModel(BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
                                 intermediate_size=8, max_position_embeddings=8)).eval()  # fmt: skip
    ids = torch.arange(6)[None]
    inject(model, ("query",), rank=2)
    y = scramble(model)(ids).pooler_output
    with pytest.raises(InputError, match=r"merge_and_unload\(model\) makes a model without one"):
        model.save_pretrained(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    with pytest.warns(UserWarning, match="from_pretrained would not read"):
        model.save_pretrained(tmp_path / "checkpoint", state_dict=model.state_dict())
    copy.deepcopy(model)
    merge_and_unload(model).save_pretrained(tmp_path / "a")
    again = BertModel.from_pretrained(tmp_path / "a").eval()
    assert gap(again(ids).pooler_output, y) < 1e-5


# --- adapters that do nothing -------------------------------------------------------------------------


class Reads(nn.Module):
    """A layer whose weight is read, one that is called, and one that is neither."""

    def __init__(self):
        super().__init__()
        self.read, self.called, self.idle = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 5)

    def forward(self, x):
        return self.called(linear(x, self.read.weight, self.read.bias))


def reads():
    torch.manual_seed(0)
    return Reads().eval()


def test_a_weight_that_is_read_has_the_adapter_in_it_merged_or_not():
    model, base, x = reads(), reads(), inputs(3)[..., :5]
    inject(model, ("read",), rank=2)
    assert torch.equal(model(x), base(x))
    scramble(model)
    y = model(x)
    y.sum().backward()
    assert model.read.B.grad.any()
    assert model.read.alpha.grad.any()
    assert gap(y, base(x)) > 1e-3
    merge(model)
    assert gap(model(x), y) < 1e-5
    with disable(model):
        assert torch.equal(model(x), base(x))
    unmerge(model)
    assert gap(merge_and_unload(model)(x), y) < 1e-5


def test_verify_names_what_is_not_called_and_what_has_no_gradient():
    model, x = reads(), inputs(3)[..., :5]
    inject(model, ("read", "called", "idle"), rank=2)
    model.train()
    before = bits(model)
    found = verify(model, x)
    assert not found.ok
    assert dict(found.calls) == {"read": 0, "called": 1, "idle": 0}
    assert (found.uncalled, found.silent) == (("read", "idle"), ("idle",))
    assert "idle: not called, and has no gradient" in str(found)
    assert "read: not called, its weight is read instead, without dropout" in str(found)
    assert model.training
    assert bits(model) == before
    assert all(p.grad is None for p in model.parameters())
    assert not any(layer._forward_hooks for layer in adapted(model))


@pytest.mark.parametrize("method", ["tlora", "lora", "vera", "dora", "lorta"])
def test_verify_finds_nothing_where_all_is_well(method):
    model = net()
    inject(model, TARGETS, rank=3, method=method)
    found = verify(model, {"x": inputs()}, lambda m, batch: m(batch["x"]).square().sum())
    assert found.ok, str(found)
    assert set(found.calls.values()) == {1}
    merge(model)
    with pytest.raises(InputError, match=r"is merged; unmerge\(model\) first"):
        verify(model, inputs())


def test_verify_sees_through_a_layer_norm_at_the_end():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 5), nn.LayerNorm(5)).double()
    inject(model, ("0",), rank=2)
    assert verify(model, inputs(3)[..., :5].double()).ok
    value = model(inputs(3)[..., :5].double()).square().sum()  # which is constant
    (gradient,) = torch.autograd.grad(value, [model[0].B])
    assert gradient.abs().max() < 1e-3


def test_verify_names_an_adapter_whose_output_is_cut_off():
    class Cut(Reads):
        def forward(self, x):
            return self.called(self.read(x).detach())

    model = Cut()
    inject(model, ("read", "called"), rank=2)
    found = verify(model, (inputs(3)[..., :5],))
    assert (found.uncalled, found.silent) == ((), ("read",))
    assert "read: called, and has no gradient" in str(found)


def test_an_untrained_adapter_is_saved_with_a_warning(tmp_path):
    model = net()
    inject(model, TARGETS, rank=3)
    with pytest.warns(UserWarning, match=r"does nothing.*verify\(model, batch\)"):
        save_adapter(model, tmp_path / "a")
    with torch.no_grad():
        model.blocks[1].mix.B[0, 0] = 1e-3
    save_adapter(model, tmp_path / "b")


# --- torch's fused modules -----------------------------------------------------------------------------


def encoder_layer():
    torch.manual_seed(0)
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)


def test_the_layers_of_a_transformer_encoder_layer_work_on_the_fast_path_and_off_it():
    x = torch.randn(2, 3, 8)
    for model in (encoder_layer(), nn.Sequential(encoder_layer())):
        inject(model, ("linear1", "linear2"), rank=4)
        scramble(model).eval()
        slow = model(x)
        with torch.no_grad():
            fast = model(x)
        assert gap(slow, fast) < 1e-5
        assert verify(model, x).ok
        with disable(model), torch.no_grad():
            base = model(x)
        assert gap(base, fast) > 1e-3
        merge(model)
        with torch.no_grad():
            assert gap(model(x), fast) < 1e-5


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
def test_an_encoder_of_such_layers_takes_a_padding_mask():
    torch.manual_seed(0)
    model = nn.TransformerEncoder(encoder_layer(), 2).eval()
    inject(model, ("linear1",), rank=4)
    scramble(model)
    x, padding = torch.randn(2, 3, 8), torch.tensor([[False, False, True], [False, False, False]])
    slow = model(x, src_key_padding_mask=padding)
    with torch.no_grad():
        fast = model(x, src_key_padding_mask=padding)
    assert gap(slow[~padding], fast[~padding]) < 1e-5


# --- replaced forwards, subclasses, odd weights, wrappers -------------------------------------------------


def test_a_forward_that_was_replaced_on_the_instance_is_honoured():
    model, x = injected(), inputs()
    y, asked = model(x), []
    base = model.blocks[0].query.base
    original = base.forward

    def offloaded(inputs):
        asked.append(inputs.shape)
        return original(inputs)

    base.forward = offloaded
    assert gap(model(x), y) < 1e-6
    assert len(asked) == 1


class Renamed(nn.Linear):
    def forward(self, x):
        return x @ self.weight.T + self.bias


def test_a_subclass_that_only_renames_is_adapted_once_it_is_declared(monkeypatch, tmp_path):
    monkeypatch.setattr(linear_module, "LINEAR_LIKE", set())
    with pytest.raises(InputError, match=r"0 is a Renamed of torch.float32, .*treat_as_linear declares"):
        inject(nn.Sequential(Renamed(4, 4)), ("0",), rank=2)
    treat_as_linear(Renamed)
    torch.manual_seed(0)
    base = nn.Sequential(Renamed(4, 4))
    model, x = copy.deepcopy(base), torch.randn(3, 4)
    inject(model, ("0",), rank=2)
    assert gap(model(x), base(x)) < 1e-6
    save_adapter(scramble(model), tmp_path / "a")
    assert torch.equal(load_adapter(base, tmp_path / "a")(x), model(x))
    with pytest.raises(InputError, match=r"expected a subclass of torch\.nn\.Linear"):
        treat_as_linear(nn.Conv1d)


def test_odd_weights_are_refused_in_a_sentence():
    with pytest.raises(
        InputError, match=r"0 is a LazyLinear, expected .*: its shape is not known before a first batch"
    ):
        inject(nn.Sequential(nn.LazyLinear(4)), ("0",), rank=2)

    class Quantised(torch.Tensor):
        """A tensor that is no plain one, as torchao's are."""

    layer = nn.Linear(4, 4)
    layer.weight = nn.Parameter(torch.randn(4, 4).as_subclass(Quantised))
    with pytest.raises(InputError, match=r"0 is a Linear, expected .*: its weight is a Quantised, expected a plain"):
        inject(nn.Sequential(layer), ("0",), rank=2)


def test_wrapped_models_are_refused_as_their_names_would_stand_in_the_file(tmp_path):
    with pytest.raises(InputError, match=r"wrapped in DataParallel, which puts 'module\.' before every name"):
        inject(nn.DataParallel(net()), TARGETS, rank=3)
    model = injected()
    with pytest.raises(InputError, match="wrapped in DataParallel"):
        save_adapter(nn.DataParallel(model), tmp_path / "a")
    save_adapter(model, tmp_path / "a")
    with pytest.raises(InputError, match="wrapped in DataParallel"):
        load_adapter(nn.DataParallel(net()), tmp_path / "a")


# --- meta, and another base ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["tlora", "lora", "vera"])
def test_an_adapter_made_on_meta_does_not_run_before_it_has_numbers(method, tmp_path):
    trained, x = injected(method=method), inputs()
    save_adapter(trained, tmp_path / "a")
    for way in ("state_dict", "file"):
        model = net().to("meta")
        inject(model, TARGETS, rank=3, method=method)
        model.to_empty(device="cpu")
        layers = tuple(f"{layer.name}." for layer in adapted(trained))
        state = trained.state_dict()
        base = {name: t for name, t in state.items() if ".base." in name or not name.startswith(layers)}
        model.load_state_dict(base, strict=False)
        for use in (model, merge, lambda m: save_adapter(m, tmp_path / "b"), merge_and_unload):
            with pytest.raises(InputError, match=r"made on the meta device, where nothing is drawn"):
                use(x) if use is model else use(model)
        if way == "file":
            load_adapter(model, tmp_path / "a")
        else:
            model.load_state_dict(trained.state_dict())
        assert torch.equal(model(x), trained(x))


def test_another_base_is_taken_by_name_only(tmp_path):
    model = injected(train_also=("classifier",))
    save_adapter(model, tmp_path / "a")
    other = net(seed=1)
    with pytest.raises(InputError, match="another base: 6 of 6"):
        load_adapter(other, tmp_path / "a")
    load_adapter(other, tmp_path / "a", check_base=False)
    assert torch.equal(other.blocks[0].query.B, model.blocks[0].query.B)
    half = net().bfloat16()
    with pytest.raises(InputError, match=r"is \(7, 5\) bfloat16, expected \(7, 5\) float32"):
        load_adapter(half, tmp_path / "a")
    load_adapter(half, tmp_path / "a", check_base=False)
    assert half.blocks[0].query.B.dtype == torch.float32
    assert gap(half(inputs().bfloat16()), model(inputs())) < 0.05
    narrow = nn.Sequential(nn.Linear(3, 3))
    with pytest.raises(InputError, match=r"holds blocks\.0\.query, which the model does not have"):
        load_adapter(narrow, tmp_path / "a", check_base=False)


# --- one name for one tensor ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["vera", "lorta"])
def test_safetensors_takes_the_state_dict_of_a_method_with_a_store(method):
    from safetensors.torch import load, save

    model = injected(method=method)
    state = load(save(model.state_dict()))
    other = net()
    inject(other, TARGETS, rank=3, method=method, seed=8)
    missing, surplus = other.load_state_dict(state)
    assert (missing, surplus) == ([], [])
    assert torch.equal(other(inputs()), model(inputs()))
    inside = nn.ModuleDict({"model": model})
    assert len([n for n in inside.state_dict() if ".shared." in n]) == len([n for n in state if ".shared." in n]) > 0
    with pytest.raises(RuntimeError, match="shared"):
        other.load_state_dict({n: t for n, t in state.items() if ".shared." not in n})


# --- targets -----------------------------------------------------------------------------------------------------


def names(model):
    return [layer.name for layer in adapted(model)]


def test_targets_by_word_expression_layer_exclusion_and_rank():
    every = [name for name, module in net().named_modules() if isinstance(module, nn.Linear) or "mix" in name]
    model = net()
    inject(model, "all-linear", rank=2, train_also=("classifier",))
    assert names(model) == [name for name in every if not name.startswith("classifier")]
    model = net()
    inject(model, r"re:blocks\.\d\.(query|value)", rank=2, layers=(1,))
    assert names(model) == ["blocks.1.query", "blocks.1.value"]
    model = net()
    ranks = {"value": 2, r"re:.*\.1\.value": 1, "blocks.0.query": 0}
    told = inject(model, TARGETS, rank=3, exclude=("blocks.0.mix",), ranks=ranks)
    assert names(model) == ["blocks.0.value", "blocks.1.query", "blocks.1.value", "blocks.1.mix"]
    assert dict(told.adapter.ranks) == {"blocks.0.query": 0, "blocks.0.value": 2, "blocks.1.value": 1}
    assert model.blocks[1].value.B.shape == (1, 1)
    # R^2 + 1:  5 + 10 + 2 + 10;  R (I + O):  2 (5 + 9) + 3 (7 + 5) + 1 (5 + 9) + 3 (9 + 7)
    assert re.search(r"of them TLoRA +27  LoRA of the same rank: 126, 4\.7 times as many", str(told))
    buffer = io.BytesIO()
    torch.save(scramble(model).state_dict(), buffer)


@pytest.mark.parametrize(("options", "message"), [
    ({"exclude": ("mux",)}, r"exclude 'mux' matches nothing"),
    ({"layers": (7,)}, "leave no module"),
    ({"ranks": {"vulue": 2}}, r"ranks 'vulue' matches nothing; the nearest names are value"),
    ({"targets": "re:("}, r"'re:\(' is no regular expression"),
    ({"ranks": dict.fromkeys(TARGETS, 0)}, "leaves no module with a rank above 0"),
    ({"ranks": {"value": 0, "mix": 9}}, "rank 9 is larger than"),
])  # fmt: skip
def test_targets_that_cannot_be_are_refused_and_nothing_has_changed(options, message):
    model = net()
    before = dict(model.named_modules())
    with warnings.catch_warnings(), pytest.raises(InputError, match=message):
        inject(model, **{"targets": TARGETS, "rank": 3} | options)
    assert dict(model.named_modules()) == before


def test_a_file_of_several_ranks_and_layers_comes_back(tmp_path):
    model = injected(ranks={"value": 2}, layers=(1,))
    save_adapter(model, tmp_path / "a")
    again = load_adapter(net(), tmp_path / "a")
    assert torch.equal(again(inputs()), model(inputs()))
    assert names(again) == names(model)


# --- the Trainer of transformers ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the model has adapters, and from_pretrained would not read")
@pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")
@pytest.mark.parametrize("method", ["tlora", "vera"])
def test_the_trainer_writes_checkpoints_and_goes_on_from_them(method, tmp_path):
    from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

    def made():
        torch.manual_seed(0)
        model = BertForSequenceClassification(BertConfig(
            vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
            max_position_embeddings=8))  # fmt: skip
        inject(model, ("query", "value"), rank=2, method=method, train_also=("classifier",))
        return model

    rows = [{"input_ids": torch.arange(6), "labels": torch.tensor(i % 2)} for i in range(8)]

    def trained(model, steps, **resume):
        arguments = TrainingArguments(str(tmp_path / "run"), max_steps=steps, save_steps=2, use_cpu=True, report_to=[],
                                      per_device_train_batch_size=4, disable_tqdm=True, lr_scheduler_type="constant",
                                      learning_rate=1e-2)  # fmt: skip
        Trainer(model, arguments, train_dataset=rows).train(**resume)
        return model

    trained(made(), 2)
    again = trained(made(), 4, resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    straight = trained(made(), 4)
    assert bits(again) == bits(straight)
