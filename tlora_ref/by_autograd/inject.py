"""TLoRA or a relative into any torch model, by the names of its modules; merged, switched off, taken out again.

Equation    every chosen layer x W0 + b becomes x W0 + b + dropout(alpha * x A B C), or what ``method`` makes of it
            (linear.py).
Twin        init.attach and by_hand.encoder.merge do the same to this package's own encoder. The draws are the same
            where the names, sizes and seed are.
Checked by  tests/test_inject.py.

    report = inject(model, targets=("query", "value"), rank=32, dropout=0.5, train_also=("classifier",))
    print(report)
    ...                                 # train: only B, alpha and the classifier have requires_grad
    verify(model, batch)                # does every adapter do something? (verify.py)
    merge(model); unmerge(model)        # explicit; train() and eval() never do it
    with disable(model): ...            # the base model's outputs
    remove(model)                       # the base model back, as it was
    merge_and_unload(model)             # or a model without adapters that computes what they made of it
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..by_hand.methods import METHODS
from ..config import AdapterConfig
from ..counts import Counts
from ..methods import SHARED
from ..shapes import InputError
from ..targets import ALL_LINEAR, REGEX, Pattern, in_layers, marked, ranks_by_pattern, select, spell
from .beside import Beside, buffers_beneath, named_tensors
from .gradient_factors import Loss, gradient_arrays
from .linear import (
    AdaptedLinear,
    SharedArrays,
    TLoRALinear,
    check_base,
    check_method,
    is_conv1d,
    is_linear,
    weight_IO,
)


@dataclass(frozen=True, repr=False)
class Report:
    """What ``inject`` did, and what the model now holds.

    matrices         the shape (I, O) of every adapted matrix, by the name of its module
    also             the names of the parameters that are trained beside the adapters
    counts           how many numbers the model trains, draws, stores, and keeps in the optimizer
    stored_bytes     bytes of the numbers in an adapter file; the file itself is larger by its header, which holds
                     the names, the configuration and the fingerprints
    optimizer_bytes  bytes of AdamW's two moments
    """

    adapter: AdapterConfig
    matrices: Mapping[str, tuple[int, int]]
    also: tuple[str, ...]
    counts: Counts
    stored_bytes: int
    optimizer_bytes: int

    def __repr__(self) -> str:
        c, config, method = self.counts, self.adapter, METHODS[self.adapter.method]
        label = {"tlora": "TLoRA", "lora": "LoRA"}.get(config.method, config.method)
        start = f"init {config.init!r}, " if config.method == "tlora" else ""
        constants = "".join(f"{name} {getattr(config, name):g}, " for name in method.constants)
        where = [config.site(name, I, O) for name, (I, O) in self.matrices.items()]
        lora, alone = (row.size(where, row.trained) for row in (METHODS["lora"], method))
        ratio = "" if config.method == "lora" else f"LoRA of the same rank: {lora:,}, {lora / alone:.1f} times as many"
        frozen = [arg.base for arg in method.arrays if arg not in method.trained_args]
        origin = f", from {config.origin} and therefore stored as well"
        if config.from_seed:
            origin = ", drawn again from the seed"
        lines = [
            f"{label} of rank {config.rank} on {len(self.matrices)} matrices, "
            f"{constants}dropout {config.dropout:g}, {start}seed {config.seed}"
        ]
        alike = Counter((re.sub(r"(?<=\.)\d+(?=\.)", "*", name), shape) for name, shape in self.matrices.items())
        lines += [f"  {n:4} x {name}  {I} x {O}" for (name, (I, O)), n in alike.items()]
        if self.also:
            lines.append(f"  trained as well: {', '.join(self.also)}")
        rows = [
            ("trained", c.trained, f"{100 * c.trained / c.base:.4f} % of the base"),
            (f"of them {label}", alone, ratio),
            (
                "frozen random" if config.from_seed else "frozen",
                c.frozen_random,
                " and ".join(frozen) + origin if frozen else "",
            ),
            ("stored", c.stored, f"{self.stored_bytes:,} bytes; an adapter file adds names and fingerprints to them"),
            ("optimizer", c.optimizer, f"{self.optimizer_bytes:,} bytes for AdamW's two moments"),
            ("base", c.base, ""),
        ]
        width = max(len(word) for word, _, _ in rows) + 1
        lines += [f"  {word:{width}} {number:>13,}  {note}".rstrip() for word, number, note in rows]
        return "\n".join(lines)


def inject(
    model: nn.Module,
    targets: str | Sequence[Pattern] = ("query", "value"),
    rank: int = 32,
    dropout: float = 0.0,
    init: str = "released",
    seed: int = 0,
    train_also: Sequence[Pattern] = (),
    method: str = "tlora",
    lora_alpha: float | None = None,
    heads: int | None = None,
    batches: Iterable[Any] | None = None,
    loss: Loss | None = None,
    exclude: Sequence[Pattern] = (),
    layers: Sequence[int] | None = None,
    ranks: Mapping[Pattern, int] | None = None,
) -> Report:
    """Put TLoRA, or another method, on every module whose name matches a target; freeze all else but ``train_also``.
    In place.

    targets     patterns for modules, as in targets.py: suffixes of names, or regular expressions, compiled or written
                "re:..."; "all-linear" is every linear layer but the output layer and what train_also names
    exclude     patterns for modules that stay as they are although a target matches
    layers      numbers of the layers to adapt, the first number in a module's name; None: all
    ranks       other ranks than ``rank``, by pattern: {"value": 4}; the last pattern that matches counts, and with a
                rank of 0 a module stays as it is
    init        how TLoRA's frozen factors are made (config.INITS); every other method starts in one way
    train_also  patterns for modules or parameters that stay trained, such as "classifier"; buffers of the modules, such
                as the statistics of a BatchNorm, belong to the adapter as well
    method      a name in by_hand.METHODS that sits on linear layers
    lora_alpha  of a method with a constant scale, which is lora_alpha / rank; None: scale 1
    heads       of the model's attention, for LoRTA; None: what the model's own config says
    batches     for init "gradient": the examples whose gradient gives the factors, and ``loss``, (model, batch) -> a
                scalar; without one, model(**batch).loss

    Raises InputError, and leaves the model as it was, for a pattern that matches nothing (also when others
    match), a target that is no linear layer, a rank above min(I, O), a model that already has adapters, a method
    that sits elsewhere, a ``lora_alpha`` for a method without one, a weight that the method cannot start from, a
    number of heads that nothing says, batches without init "gradient" or the other way round, a loss that does not
    depend on a target.
    """
    chosen = (targets,) if targets == ALL_LINEAR else _patterns("targets", targets)
    check_unwrapped(model)
    if heads is None and method in METHODS and METHODS[method].per_head:
        heads = _heads(model)
    config = AdapterConfig(
        method,
        rank,
        chosen,
        layers=None if layers is None else tuple(layers),
        dropout=dropout,
        init=init,
        seed=seed,
        lora_alpha=lora_alpha,
        heads=heads,
    )
    check_method(method)
    if lora_alpha is not None and "scale" not in METHODS[method].constants:
        raise InputError(f"lora_alpha is {lora_alpha}, expected None: {method} has no constant scale")
    if (batches is not None) != (init == "gradient"):
        raise InputError(f"init is {init!r}, and batches are {'not ' * (batches is None)}given: the two go together")
    if is_adapted(model):
        raise InputError("the model already has adapters; remove(model) takes them out")
    modules = named_modules(model)
    also = trained_parameters(model, modules, _patterns("train_also", train_also))
    names = _chosen(model, modules, config, also, _patterns("exclude", exclude))
    config = replace(config, ranks=ranks_by_pattern(ranks or {}, names, rank))
    names = [name for name in names if config.rank_of(name) > 0]
    if not names:
        raise InputError(f"ranks is {ranks!r}, which leaves no module with a rank above 0")
    arrays = None
    if batches is not None:
        for name in names:
            check_base(name, modules[name], config, _parent(model, name))
        arrays = gradient_arrays(model, {name: modules[name] for name in names}, config, batches, loss)
    return place(model, names, config, also, arrays)


def _chosen(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    config: AdapterConfig,
    also: Sequence[str],
    exclude: Sequence[Pattern],
) -> list[str]:
    """The names of the modules to adapt. Raises InputError for a pattern that matches nothing, and if none are left."""
    linears = [name for name, module in modules.items() if is_linear(module)]
    if config.targets == (ALL_LINEAR,):
        head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
        names = [n for n in linears if modules[n] is not head and not any(a.startswith(f"{n}.") for a in also)]
        names = [name for name in names if not isinstance(_parent(model, name), nn.MultiheadAttention)]
    else:
        names = select("target", config.targets, modules, near=linears)
    if exclude:
        out = set(select("exclude", exclude, modules, near=names))
        names = [name for name in names if name not in out]
    if config.layers is not None:
        names = [name for name in names if in_layers(name, config.layers)]
    if not names:
        raise InputError(
            f"targets {', '.join(map(spell, config.targets))} with this exclude and layers leave no module"
        )
    return names


def place(
    model: nn.Module,
    names: Iterable[str],
    config: AdapterConfig,
    also: Sequence[str],
    arrays: Mapping[str, np.ndarray] | None = None,
) -> Report:
    """``inject`` with the modules, and the parameters and buffers of ``train_also``, given by their full names, and
    with the adapter's ``arrays``, by theirs, instead of draws."""
    if config.tied:
        raise InputError("the adapter ties matrices, expected none: in a torch model every layer has its own")
    modules, tensors = named_modules(model), named_tensors(model)
    # a module that sits at several places is adapted once, under its first name, and put at all of them
    first: dict[nn.Module, str] = {}
    for name in names:
        check_base(name, modules[name], config, _parent(model, name))
        first.setdefault(modules[name], name)
    frozen = {id(parameter): name for base, name in first.items() for parameter in base.parameters()}
    for name in also:
        if id(tensors[name]) in frozen:
            raise InputError(f"train_also names {name}, which the adapter on {frozen[id(tensors[name])]} freezes")
    given: dict[str, dict[str, np.ndarray]] = {}
    for name, array in (arrays or {}).items():
        module, _, local = name.rpartition(".")
        given.setdefault(module, {})[local] = array
    bases = {name: base for base, name in first.items()}
    shared = SharedArrays(bases, config, given.get(SHARED)) if METHODS[config.method].shared else None
    kind = TLoRALinear if config.method == "tlora" else AdaptedLinear
    # where arrays are given, a matrix that has none of its own is not to be drawn
    own = {name: given.get(name, None if arrays is None else {}) for name in first.values()}
    layers = {base: kind(base, config, name, shared, own[name]) for base, name in first.items()}

    beside = Beside.of(model, also)
    model.requires_grad_(False)
    for name, module in modules.items():
        if module in layers:
            _replace(model, name, layers[module])
    for layer in layers.values():
        layer.beside = beside
        for arg in METHODS[config.method].trained_args:
            layer.array(arg.base).requires_grad_(True)
    for name in also:
        if isinstance(tensors[name], nn.Parameter):
            tensors[name].requires_grad_(True)
    if hasattr(model, "save_pretrained"):
        model.save_pretrained = SavePretrained(model.save_pretrained)
    return report(model)


class SavePretrained:
    """What a transformers model's ``save_pretrained`` is while it has adapters: from_pretrained would not find the
    base's weights under the names that they have then."""

    def __init__(self, original: Any) -> None:
        self.original = original

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Raises InputError; a checkpoint of the Trainer, which gives a state_dict, is written, with a warning."""
        says = (
            "the model has adapters, and from_pretrained would not read what save_pretrained writes of it: "
            "save_adapter(model, file) writes the adapter, merge_and_unload(model) makes a model without one"
        )
        if "state_dict" not in kwargs:
            raise InputError(says)
        warnings.warn(says, UserWarning, stacklevel=2)
        return self.original(*args, **kwargs)


def report(model: nn.Module) -> Report:
    """The report of ``inject``, counted again on the model as it is now."""
    layers = adapted(model)
    config = layers[0].adapter
    trained_bytes = _bytes(p for p in model.parameters() if p.requires_grad)
    return Report(
        adapter=config,
        matrices={layer.name: tuple(weight_IO(layer.base).shape) for layer in layers},
        also=tuple(trained_beside(model)),
        counts=held(model),
        stored_bytes=trained_bytes + (0 if config.from_seed else _bytes(_frozen(layers))),
        optimizer_bytes=2 * trained_bytes,
    )


def held(model: nn.Module) -> Counts:
    """Counts of the tensors of any torch model: what has requires_grad is trained; each tensor counts once."""
    layers = adapted(model) if is_adapted(model) else []
    own = _own(layers)
    n = sum(p.numel() for p in model.parameters() if p.requires_grad)
    base = sum(p.numel() for p in model.parameters() if id(p) not in own)
    from_seed = all(layer.adapter.from_seed for layer in layers)
    return Counts(base, n, sum(t.numel() for t in _frozen(layers)), 2 * n, from_seed)


def _own(layers: Sequence[AdaptedLinear]) -> set[int]:
    """The ids of the adapters' parameters, those that they share included."""
    holders = [module for layer in layers for module in (layer, layer.shared) if module is not None]
    return {id(p) for module in holders for p in module.parameters(recurse=False)}


def _frozen(layers: Sequence[AdaptedLinear]) -> list[Tensor]:
    """The frozen arrays of the adapters, a shared one once."""
    found = [
        layer.array(arg.base)
        for layer in layers
        for arg in METHODS[layer.adapter.method].arrays
        if arg not in METHODS[layer.adapter.method].trained_args
    ]
    return list({id(tensor): tensor for tensor in found}.values())


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


# --- merge, unmerge, remove, disable -------------------------------------------------------------


def merge(model: nn.Module) -> None:
    """Run W' = W0 + dW in every adapted layer, in evaluation only. Twice is the same as once.

    The weights themselves stay: W' is kept beside W0, which costs a second copy of the adapted matrices.
    Raises InputError if there are no adapters.
    """
    for layer in adapted(model):
        layer.merge()


def unmerge(model: nn.Module) -> None:
    """Run the adapters beside W0 again; the weights are the original ones bit for bit."""
    for layer in adapted(model):
        layer.unmerge()


def remove(model: nn.Module) -> None:
    """The base back: the original modules, the same objects with the same bits, and what trained beside the adapters as
    it was before. As after ``inject``, nothing but ``train_also`` trains; ``model.requires_grad_(True)`` changes that.
    Raises InputError without adapters."""
    _beside(model).put_back(model)
    _take_out(model)


@torch.no_grad()
def merge_and_unload(model: nn.Module) -> nn.Module:
    """The model without adapters, which computes what they made of it: W0 + dW stands in the weights themselves,
    rounded to their dtype, and what trained beside them stays. In place, for good; the same model is returned.

    Raises InputError, with the model as it was, without adapters, for a method that does not merge, for an update that
    is not finite, and where an adapted weight is tied to something else, which would change with it.
    """
    layers = adapted(model)
    own = {id(layer.base.weight): layer for layer in layers}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        layer = own.get(id(parameter))
        if layer is not None and _parent(model, name) is not layer.base:
            raise InputError(
                f"the weight of {layer.name} is tied to {name}, which merging for good would change as well"
            )
    merged = {layer: layer.merged_weight() for layer in layers}
    for layer, W_IO in merged.items():
        if not W_IO.isfinite().all():
            raise InputError(f"W0 + dW of {layer.name} is not finite")
    for layer, W_IO in merged.items():
        layer.base.weight.copy_(W_IO if is_conv1d(layer.base) else W_IO.T)
    _take_out(model)
    return model


def _take_out(model: nn.Module) -> None:
    for name, module in named_modules(model).items():
        if isinstance(module, AdaptedLinear):
            _replace(model, name, module.base)
    if isinstance(model.__dict__.get("save_pretrained"), SavePretrained):
        del model.save_pretrained


@contextmanager
def disable(model: nn.Module) -> Iterator[None]:
    """Inside, the model computes what the base does, merged or not, and what trains beside the adapters is as it was
    before they came. Raises InputError without adapters."""
    layers = adapted(model)
    before = [layer.disabled for layer in layers]
    with ExitStack() as stack:
        if not all(before):  # within another ``disable`` everything is as it was already
            stack.enter_context(_beside(model).away(model))
        try:
            for layer in layers:
                layer.disabled = True
            yield
        finally:
            for layer, was in zip(layers, before, strict=True):
                layer.disabled = was


def _beside(model: nn.Module) -> Beside:
    return adapted(model)[0].beside


# --- names ---------------------------------------------------------------------------------------


def named_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Every module under the model by its full name; one that sits at several places has several."""
    if not isinstance(model, nn.Module):
        raise InputError(f"the model is a {type(model).__name__}, expected a torch.nn.Module")
    return {name: module for name, module in model.named_modules(remove_duplicate=False) if name}


def is_adapted(model: nn.Module) -> bool:
    """Does the model hold any AdaptedLinear?"""
    return any(isinstance(module, AdaptedLinear) for module in named_modules(model).values())


def adapted(model: nn.Module) -> list[AdaptedLinear]:
    """The adapted layers, each once. Raises InputError if there are none."""
    layers = [m for m in dict.fromkeys(named_modules(model).values()) if isinstance(m, AdaptedLinear)]
    if not layers:
        raise InputError("the model has no adapters")
    return layers


def trained_beside(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that train and are no adapter's, a tied one under each of its names, and buffers beside them."""
    layers = adapted(model)
    own = _own(layers)
    parameters = model.named_parameters(remove_duplicate=False)
    trained = {name: p for name, p in parameters if p.requires_grad and id(p) not in own}
    buffers = dict(model.named_buffers(remove_duplicate=False))
    return trained | {name: buffers[name] for name in layers[0].beside.before if name in buffers}


def trained_parameters(
    model: nn.Module, modules: Mapping[str, nn.Module], patterns: Sequence[Pattern]
) -> tuple[str, ...]:
    """The parameters that the patterns name, directly or by a module that holds them, and buffers of those modules."""
    owners = {name: [name] for name, _ in model.named_parameters(remove_duplicate=False)}
    for name, module in modules.items():
        owners.setdefault(name, [f"{name}.{local}" for local, _ in module.named_parameters()])
    chosen = select("train_also", patterns, owners) if patterns else []
    for pattern in patterns:
        if not any(owners[name] for name in select("train_also", [pattern], chosen)):
            raise InputError(f"train_also {spell(pattern)} matches modules without parameters")
    buffers = buffers_beneath(model, [name for name in chosen if name in modules])
    # a parameter that is tied is trained under all of its names
    wanted = {parameter for name in chosen for parameter in owners[name]}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    ids = {id(parameters[name]) for name in wanted}
    return (*(name for name, parameter in parameters.items() if id(parameter) in ids), *buffers)


def _heads(model: nn.Module) -> int:
    """The heads of the attention by the model's own config, under the names of transformers; of GPT-2's, DistilBERT's
    and T5's own ones, too."""
    config = getattr(model, "config", None)
    for name in ("num_attention_heads", "n_head", "n_heads", "num_heads"):
        if isinstance(getattr(config, name, None), int):
            return getattr(config, name)
    raise InputError(
        "heads is None, expected the number of the attention's heads: the model has no config that says it"
    )


def _patterns(argument: str, patterns: Sequence[Pattern]) -> tuple[Pattern, ...]:
    if isinstance(patterns, str) and patterns.startswith(REGEX):
        patterns = (patterns,)
    listed = isinstance(patterns, (list, tuple))
    if not listed or not all(isinstance(p, (str, re.Pattern)) and p != "" for p in patterns):
        raise InputError(f"{argument} is {patterns!r}, expected a tuple of names and regular expressions")
    return tuple(marked(pattern) for pattern in patterns)


def check_unwrapped(model: nn.Module) -> None:
    """Raise InputError for a model inside a wrapper of torch, whose names would stand in every file."""
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise InputError(
            f"the model is wrapped in {type(model).__name__}, which puts 'module.' before every name: "
            "give model.module, and wrap it afterwards"
        )


def _parent(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, local = name.rpartition(".")
    setattr(model.get_submodule(parent), local, module)
