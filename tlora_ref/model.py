"""A model is its arrays by name, and an explicit set of the names that are trained.

Names       embed.W embed.b position.W type.W embed_norm.gamma embed_norm.beta
            layers.0.query.W layers.0.query.b ... layers.0.attn_norm.gamma ... layers.0.ffn_norm.beta
            pooler.W pooler.b head.W head.b;  an adapter's arrays stand beside the W they adapt: layers.0.query.B
Twin        none: both rooms use this class, by_hand with NumPy arrays, by_autograd with tensors.
Checked by  tests/test_encoder.py, tests/test_counts.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from .by_hand.methods import METHODS
from .config import AdapterConfig, EncoderConfig
from .methods import MATRICES, SHARED, Method, Site
from .shapes import InputError, ShapeError, check_ids, dtype_name


@dataclass(frozen=True, eq=False)
class Model:
    """An encoder's arrays, its adapter if it has one, and which arrays are trained.

    ``merged`` holds, for every matrix an adapter is merged into, the W from before: unmerging is exact.
    """

    config: EncoderConfig
    params: Mapping[str, Any]
    trained: frozenset[str] = frozenset()
    adapter: AdapterConfig | None = None
    merged: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.trained) - set(self.params))
        if unknown:
            raise InputError(f"to be trained, but not in the model: {', '.join(unknown)}")
        for matrix in (*self.adapted, SHARED):
            frozen = sorted(self.trained_in(matrix) - set(self.method.trained if self.adapter else ()))
            if frozen:
                raise InputError(f"{matrix}.{frozen[0]} cannot be trained: in an adapted matrix it has no gradient")

    @property
    def attached(self) -> AdapterConfig:
        """The adapter. Raises InputError if the model has none."""
        if self.adapter is None:
            raise InputError("the model has no adapter")
        return self.adapter

    @property
    def method(self) -> Method:
        """The adapter's method. Raises InputError if the model has no adapter."""
        return METHODS[self.attached.method]

    @cached_property
    def adapted(self) -> dict[str, Site]:
        """The matrices that run through the adapter's kernel, ``layers.0.query`` and so on; none when merged."""
        if self.adapter is None or self.merged:
            return {}
        return {site.name: site for site in sites(self.config, self.adapter)}

    @cached_property
    def _trained_in(self) -> dict[str, frozenset[str]]:
        groups: dict[str, set[str]] = {}
        for name in self.trained:
            module, _, local = name.rpartition(".")
            groups.setdefault(module, set()).add(local)
        return {module: frozenset(names) for module, names in groups.items()}

    def trained_in(self, module: str) -> frozenset[str]:
        """The local names trained in a module: ``{"B", "alpha"}`` for an adapted ``layers.0.query``."""
        return self._trained_in.get(module, frozenset())

    def trained_at(self, matrix: str) -> frozenset[str]:
        """The local names of what trains in an adapted matrix, what it shares with the others included."""
        home = matrix if self.adapter is None else self.adapter.home(matrix)
        return self.trained_in(home) | self.trained_in(SHARED)

    @cached_property
    def lowest(self) -> int:
        """The lowest layer with anything to train; -1 for the embeddings, L for pooler, head or nothing at all."""
        elsewhere = self.trained_in(SHARED) or (self.adapter is not None and self.adapter.tied)
        used = [*self.adapted, *self.trained] if elsewhere else list(self.trained)
        return min((self._depth(name) for name in used), default=self.config.layers)

    def _depth(self, name: str) -> int:
        room, _, rest = name.partition(".")
        if room == "layers":
            return int(rest.partition(".")[0])
        return self.config.layers if room in ("pooler", "head", SHARED) else -1

    def with_params(self, updates: Mapping[str, Any]) -> Model:
        """The same model with some arrays exchanged; what follows from names alone is not worked out again."""
        model = copy(self)
        vars(model)["params"] = {**self.params, **updates}
        return model

    def training(self, names: Collection[str]) -> Model:
        """The same model with exactly ``names`` trained."""
        return replace(self, trained=frozenset(names))


def matrix_shape(config: EncoderConfig, target: str) -> tuple[int, int]:
    """(I, O) of one of the six matrices of a layer; (D, D) of a block."""
    D, F = config.width, config.hidden
    return {"ffn_in": (D, F), "ffn_out": (F, D)}.get(target, (D, D))


def encoder_shapes(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """Every base array's shape by name, in the order the forward meets them."""
    D = config.width
    norm: dict[str, tuple[int, ...]] = {"gamma": (D,), "beta": (D,)}
    modules: dict[str, dict[str, tuple[int, ...]]] = {}
    if config.first == 0:
        modules["embed"] = {"W": (config.inputs, D)} | ({} if config.vocab else {"b": (D,)})
        modules["position"] = {"W": (config.positions, D)}
        modules |= {"type": {"W": (config.types, D)}} if config.types else {}
        modules["embed_norm"] = norm
    for layer in range(config.first, config.layers):
        for target in MATRICES:
            I, O = matrix_shape(config, target)
            modules[f"layers.{layer}.{target}"] = {"W": (I, O), "b": (O,)}
            if target == "output":
                modules[f"layers.{layer}.attn_norm"] = norm
        modules[f"layers.{layer}.ffn_norm"] = norm
    if config.pooler:
        modules["pooler"] = {"W": (D, D), "b": (D,)}
    modules["head"] = {"W": (D, config.classes), "b": (config.classes,)}
    return {f"{module}.{name}": shape for module, arrays in modules.items() for name, shape in arrays.items()}


def check_layer(config: EncoderConfig, layer: int) -> None:
    """Raise InputError unless the encoder holds that layer."""
    if layer not in range(config.first, config.layers):
        raise InputError(f"layer {layer} does not exist, the encoder has layers {config.first} to {config.layers - 1}")


def with_heads(config: EncoderConfig, adapter: AdapterConfig) -> AdapterConfig:
    """The adapter with the encoder's number of heads, where its method asks for it and it has none."""
    asked = METHODS[adapter.method].per_head and adapter.heads is None
    return replace(adapter, heads=config.heads) if asked else adapter


def sites(config: EncoderConfig, adapter: AdapterConfig) -> tuple[Site, ...]:
    """Where an adapter sits in an encoder: every matrix with its width in and out and its rank, which is not 0.

    Raises InputError for an unknown target, a layer the encoder does not have, a rank above min(I, O), a matrix in
    ``ranks`` or ``tied`` that the adapter does not reach, tied matrices that are not alike, if no matrix is left, or if
    the ranks are still to be chosen.
    """
    if adapter.allocation is not None:
        raise InputError(
            f"the ranks are not chosen yet: allocate.allocate makes them by {adapter.allocation} from a model and data"
        )
    adapter, places = with_heads(config, adapter), METHODS[adapter.method].places
    unknown = [t for t in adapter.targets if t not in places]
    if unknown:
        raise InputError(f"unknown target {unknown[0]!r} for {adapter.method}, expected some of {', '.join(places)}")
    layers = range(config.first, config.layers) if adapter.layers is None else adapter.layers
    for layer in layers:
        check_layer(config, layer)
    reached = {f"layers.{layer}.{t}": matrix_shape(config, t) for layer in layers for t in adapter.targets}
    stray = [name for name, _ in adapter.ranks if name not in reached]
    if stray:
        raise InputError(f"ranks names {stray[0]!r}, expected some of the adapted {', '.join(reached)}")
    adapted = [adapter.site(name, I, O) for name, (I, O) in reached.items() if adapter.rank_of(name) > 0]
    for site in adapted:
        if min(site.I, site.O) < site.R:
            raise InputError(
                f"rank {site.R} is larger than min(I, O) = {min(site.I, site.O)} of {site.name}, {(site.I, site.O)}"
            )
    if not adapted:
        raise InputError("the rank of every matrix is 0, expected at least one matrix with an adapter")
    like = {site.name: (site.I, site.O, site.R) for site in adapted}
    for group in adapter.tied:
        strays = [name for name in group if name not in like]
        if strays:
            raise InputError(f"tied names {strays[0]!r}, expected some of the adapted {', '.join(like)}")
        if len({like[name] for name in group}) > 1:
            raise InputError(f"tied are {', '.join(group)}, expected matrices of one shape and one rank")
    return tuple(adapted)


def trained_names(config: EncoderConfig, adapter: AdapterConfig) -> frozenset[str]:
    """The adapter's trained arrays, in full names."""
    method = METHODS[adapter.method]
    homes = [adapter.home(site.name) for site in sites(config, adapter)]
    return frozenset(method.full_name(home, base) for home in homes for base in method.trained)


def adapter_arrays(model: Model, name: str) -> dict[str, Any]:
    """The arrays that a matrix's adapter is made of, by their local names; shared ones in their full size."""
    method = model.method
    home = model.attached.home(name)
    return {arg.base: model.params[method.full_name(home, arg.base)] for arg in method.arrays}


def adapter_arguments(
    model: Model, name: str, view: Callable[[dict[str, Any], Site], dict[str, Any]] | None = None
) -> dict[str, Any]:
    """The adapter's arrays and constants for one matrix, by the kernel's names: {"A_IR": ..., "alpha": ...}. ``view``:
    what makes the arguments out of the arrays in place of the method's own."""
    adapter, method = model.attached, model.method
    I, O = matrix_shape(model.config, name.rpartition(".")[2])
    site = with_heads(model.config, adapter).site(name, I, O)
    constants = {constant: adapter.scale_at(site.R) for constant in method.constants}
    return (view or method.arguments)(adapter_arrays(model, name), site) | constants


def upper_layers(model: Model, first: int) -> Model:
    """The layers from ``first`` on, and what stands above them: a model of the same arrays under the same names
    whose inputs are the hidden states (N, T, D) that layer reads. An adapter file of it fits the whole model.

    Raises InputError if the layer does not exist, or if the model has an adapter: attach to what is returned.
    """
    if model.adapter is not None:
        raise InputError(f"the model has a {model.adapter.method} adapter; take its upper layers before attaching")
    check_layer(model.config, first)
    config = replace(model.config, first=first)
    shapes = encoder_shapes(config)
    return Model(config, {name: model.params[name] for name in shapes}, model.trained & shapes.keys())


def padded_positions(ids_NT: Any, pad_id: int) -> Any:
    """RoBERTa's row of the position table for each token (N, T), of arrays and tensors alike: pad_id for padding,
    pad_id + 1, pad_id + 2, ... for the others (fairseq's make_positions)."""
    real_NT = ids_NT != pad_id
    return real_NT.cumsum(1) * real_NT + pad_id


def check_inputs(model: Model, inputs: Any, mask_NT: Any | None, types_NT: Any | None = None) -> None:
    """Raise InputError or ShapeError unless ``inputs`` (N, T) ids or (N, T, I) numbers fit the encoder, and a mask
    and token types fit them."""
    config, shape = model.config, tuple(inputs.shape)
    ids = config.vocab is not None and config.first == 0
    width = config.width if config.first else config.features
    expected = "(N, T)" if ids else f"(N, T, {width})"
    axes_fit = len(shape) == 2 if ids else len(shape) == 3 and shape[2] == width
    if not axes_fit:
        raise ShapeError(f"encoder: inputs have shape {shape}, expected {expected}")
    if not 1 <= shape[1] <= config.time:
        raise ShapeError(f"encoder: inputs have shape {shape}, T must be 1 to {config.time}")
    if ids:
        check_ids("encoder: inputs", inputs, config.inputs)
    if types_NT is not None:
        types = 0 if config.first else config.types
        if types == 0:
            raise InputError("encoder: token types are given, expected None: the encoder has none")
        check_ids("encoder: token types", types_NT, types)
        if tuple(types_NT.shape) != shape[:2]:
            raise ShapeError(f"encoder: token types have shape {tuple(types_NT.shape)}, expected {shape[:2]}")
    if mask_NT is not None and (tuple(mask_NT.shape) != shape[:2] or dtype_name(mask_NT) != "bool"):
        raise ShapeError(
            f"encoder: mask has shape {tuple(mask_NT.shape)} and dtype {dtype_name(mask_NT)}, "
            f"expected {shape[:2]} and bool"
        )
