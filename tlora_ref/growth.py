"""The rank of an adapter, grown while it trains: a few matrices at a time, those whose core has gained most.

Equation    every ``grow_every`` steps t of T behind the warm-up's w, while the sum of all ranks is below that of
            ``grow_to`` a matrix:
                u = (t - w) / (T - w),   k = left u  (linear)   or   left^u  (exponential),   left = what the sum lacks,
            in whole numbers, at least one matrix and at most all; and the k matrices with the largest gain of
            importance since the last time grow by the adapter's ``block``
            (TriAdaptLoRA, arXiv 2501.08008, as in the authors' code; what importance is stands on the method's page).
Twin        none: it works on NumPy arrays, which a room gives and takes over.
Checked by  tests/test_triadapt.py.

A grown matrix does what it did before: every array keeps its numbers, the core multiplied by what the scale falls by,
and the new part of the core is 0. The optimizer keeps what it remembers of the old parts; new ones start afresh.

Readings. The released code multiplies nothing, so there the function shrinks by R / (R + block) at each growth.
Matrices with the same gain as the k-th one grow, too, as in that code, and k counts matrices and not ranks: the sum may
end above what was asked for, by less than a block a grown matrix. At the last step nothing grows, for it would not be
trained; nor does a matrix beyond its smaller side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .config import TrainConfig
from .methods import Site
from .model import Model, adapter_arrays
from .room import Room

if TYPE_CHECKING:
    from .training import Run


def how_many(schedule: str | None, left: int, u: float) -> int:
    """k, from what the sum of the ranks lacks and the share u of the way; not yet held between 1 and all."""
    return int(left * u) if schedule == "linear" else int(left**u)


def gaining(gains: Mapping[str, float], k: int) -> list[str]:
    """The names of the k largest gains, and of all that are equal to the k-th."""
    threshold = sorted(gains.values(), reverse=True)[k - 1]
    return [name for name, gain in gains.items() if gain >= threshold]


def grow(model: Model, names: list[str]) -> Model:
    """The model, of NumPy arrays, with a block more on those matrices; it computes what it did before.

    Raises InputError for a rank above a matrix's smaller side.
    """
    adapter, method = model.attached, model.method
    sites = {name: model.adapted[name] for name in names}
    larger = {name: site.R + adapter.block for name, site in sites.items()}
    grown = replace(adapter, ranks=tuple((dict(adapter.ranks) | larger).items()))
    arrays: dict[str, Any] = {}
    for name, site in sites.items():
        factor = adapter.scale_at(site.R) / adapter.scale_at(larger[name])
        fresh = method.draw(grown.site(name, site.I, site.O), model.params[f"{name}.W"], grown)
        for base, old in adapter_arrays(model, name).items():
            array = fresh[base].astype(old.dtype)
            array[tuple(map(slice, old.shape))] = factor * old if base in method.core else old
            arrays[f"{name}.{base}"] = array
    return replace(model, params={**model.params, **arrays}, adapter=grown)


@dataclass
class Growth:
    """What ``training.train`` calls between its steps; see the top of the file."""

    room: Room
    config: TrainConfig
    importance: dict[str, float] = field(default_factory=dict)  # of each matrix, the last time

    def __call__(self, run: Run) -> Model | None:
        """The model with larger ranks, or None where this is not the time."""
        config, where = self.config, run.model.adapted
        warmup = int(config.warmup * run.steps)
        left = config.grow_to * len(where) - sum(site.R for site in where.values())
        if left <= 0 or run.step <= warmup or (run.step - warmup) % config.grow_every or run.step == run.steps:
            return None
        model = self.room.to_numpy(run.model)
        gains = {name: self._gain(model, site) for name, site in where.items()}
        block = run.model.attached.block
        able = {name: gains[name] for name, site in where.items() if site.R + block <= min(site.I, site.O)}
        if not able:
            return None
        u = (run.step - warmup) / (run.steps - warmup)
        k = min(max(how_many(config.growth, left, u), 1), len(able))
        return grow(model, gaining(able, k))

    def _gain(self, model: Model, site: Site) -> float:
        measure = model.method.importance
        assert measure is not None  # check_together has seen to it
        before, now = self.importance.get(site.name, 0.0), measure(adapter_arrays(model, site.name), site)
        self.importance[site.name] = now
        return now - before
