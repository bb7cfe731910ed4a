"""TLoRA or a relative into any torch model, by the names of its modules; merged, switched off, taken out again.

Equation    every chosen layer x W0 + b becomes x W0 + b + dropout(alpha * x A B C), or what ``method`` makes of it
            (linear.py).
Twin        init.attach and by_hand.encoder.merge do the same to this package's own encoder. The draws are the same
            where the names, sizes and seed are.
Checked by  tests/test_inject.py.

    report = inject(model, targets=("query", "value"), rank=32, dropout=0.5, train_also=("classifier",))
    print(report)
    ...                                 # train: only B, alpha and the classifier have requires_grad
    merge(model); unmerge(model)        # explicit; train() and eval() never do it
    with disable(model): ...            # the base model's outputs
    remove(model)                       # the original modules back
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..by_hand.methods import METHODS
from ..config import AdapterConfig
from ..counts import Counts, trained
from ..methods import SHARED
from ..shapes import InputError
from ..targets import Pattern, select, spell
from .gradient_factors import Loss, gradient_arrays
from .linear import AdaptedLinear, SharedArrays, TLoRALinear, check_base, check_method, is_linear, weight_IO


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
        lora = trained("lora", self.matrices.values(), config.rank)
        alone = trained(config.method, self.matrices, config.rank, config.heads or 1)
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
    targets: Sequence[Pattern] = ("query", "value"),
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
) -> Report:
    """Put TLoRA, or another method, on every module whose name matches a target; freeze all else but ``train_also``.
    In place.

    targets     patterns for modules, as in targets.py: suffixes of names, or compiled regular expressions
    init        how TLoRA's frozen factors are made (config.INITS); every other method starts in one way
    train_also  patterns for modules or parameters that stay trained, such as "classifier"
    method      a name in by_hand.METHODS that sits on linear layers
    lora_alpha  of a method with a constant scale, which is lora_alpha / rank; None: scale 1
    heads       of the model's attention, for LoRTA; None: what the model's own config says, and 1 if it says nothing
    batches     for init "gradient": the examples whose gradient gives the factors, and ``loss``, (model, batch) -> a
                scalar; without one, model(**batch).loss

    Raises InputError, and leaves the model as it was, for a pattern that matches nothing (also when others
    match), a target that is no linear layer, a rank above min(I, O), a model that already has adapters, a method
    that sits elsewhere, a ``lora_alpha`` for a method without one, a weight that the method cannot start from.
    """
    chosen = _patterns("targets", targets)
    if heads is None and method in METHODS and METHODS[method].per_head:
        heads = getattr(getattr(model, "config", None), "num_attention_heads", None)
    config = AdapterConfig(
        method, rank, chosen, dropout=dropout, init=init, seed=seed, lora_alpha=lora_alpha, heads=heads
    )
    check_method(method)
    if lora_alpha is not None and "scale" not in METHODS[method].constants:
        raise InputError(f"lora_alpha is {lora_alpha}, expected None: {method} has no constant scale")
    if (batches is not None) != (init == "gradient"):
        raise InputError(f"init is {init!r}, and batches are {'not ' * (batches is None)}given: the two go together")
    if is_adapted(model):
        raise InputError("the model already has adapters; remove(model) takes them out")
    modules = named_modules(model)
    linears = [name for name, module in modules.items() if is_linear(module)]
    names = select("target", config.targets, modules, near=linears)
    also = trained_parameters(model, modules, _patterns("train_also", train_also))
    arrays = None if batches is None else gradient_arrays(model, names, config, batches, loss)
    return place(model, names, config, also, arrays)


def place(
    model: nn.Module,
    names: Iterable[str],
    config: AdapterConfig,
    also: Sequence[str],
    arrays: Mapping[str, np.ndarray] | None = None,
) -> Report:
    """``inject`` with the modules and the parameters of ``train_also`` given by their full names, and with the
    adapter's ``arrays``, by theirs, instead of draws."""
    modules, parameters = named_modules(model), dict(model.named_parameters(remove_duplicate=False))
    # a module that sits at several places is adapted once, under its first name, and put at all of them
    first: dict[nn.Module, str] = {}
    for name in names:
        check_base(name, modules[name], config, modules.get(name.rpartition(".")[0]))
        first.setdefault(modules[name], name)
    frozen = {id(parameter): name for base, name in first.items() for parameter in base.parameters()}
    for name in also:
        if id(parameters[name]) in frozen:
            raise InputError(f"train_also names {name}, which the adapter on {frozen[id(parameters[name])]} freezes")
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

    model.requires_grad_(False)
    for name, module in modules.items():
        if module in layers:
            _replace(model, name, layers[module])
    for layer in layers.values():
        for arg in METHODS[config.method].trained_args:
            layer.array(arg.base).requires_grad_(True)
    for name in also:
        parameters[name].requires_grad_(True)
    return report(model)


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
    """The original modules back, the same objects with the same bits. As after ``inject``, nothing but
    ``train_also`` trains; ``model.requires_grad_(True)`` changes that. Raises InputError without adapters."""
    adapted(model)
    for name, module in named_modules(model).items():
        if isinstance(module, AdaptedLinear):
            _replace(model, name, module.base)


@contextmanager
def disable(model: nn.Module) -> Iterator[None]:
    """Inside, the model computes what the base does, merged or not. Raises InputError without adapters."""
    layers = adapted(model)
    before = [layer.disabled for layer in layers]
    try:
        for layer in layers:
            layer.disabled = True
        yield
    finally:
        for layer, was in zip(layers, before, strict=True):
            layer.disabled = was


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


def trained_beside(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that train and are no adapter's, by name."""
    own = _own(adapted(model))
    return {name: p for name, p in model.named_parameters() if p.requires_grad and id(p) not in own}


def trained_parameters(
    model: nn.Module, modules: Mapping[str, nn.Module], patterns: Sequence[Pattern]
) -> tuple[str, ...]:
    """The parameters that the patterns name, directly or by a module that holds them."""
    owners = {name: [name] for name, _ in model.named_parameters(remove_duplicate=False)}
    for name, module in modules.items():
        owners.setdefault(name, [f"{name}.{local}" for local, _ in module.named_parameters()])
    chosen = select("train_also", patterns, owners) if patterns else []
    for pattern in patterns:
        if not any(owners[name] for name in select("train_also", [pattern], chosen)):
            raise InputError(f"train_also {spell(pattern)} matches modules without parameters")
    return tuple(dict.fromkeys(parameter for name in chosen for parameter in owners[name]))


def _patterns(argument: str, patterns: Sequence[Pattern]) -> tuple[Pattern, ...]:
    listed = isinstance(patterns, (list, tuple))
    if not listed or not all(isinstance(p, (str, re.Pattern)) and p != "" for p in patterns):
        raise InputError(f"{argument} is {patterns!r}, expected a tuple of names and compiled regular expressions")
    return tuple(patterns)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, local = name.rpartition(".")
    setattr(model.get_submodule(parent), local, module)
