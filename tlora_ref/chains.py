"""Chains: a small adapter is trained and folded into the weights, and a fresh one begun, again and again.

Papers      RAC-LoRA: G. Malinovsky et al., arXiv 2410.08305; COLA, arXiv 2401.04151, and AsymmLoRA, arXiv 2402.16842,
            are settings of the same chain, as it says. XGBLoRA: Y. Zhang et al., arXiv 2410.19694.
Equation    W_(t+1) = W_t + s A_t B_t,   t = 0 ... T - 1, one term a link:
                COLA        A_t drawn, B_t = 0 at first, both trained
                RAC-LoRA    A_t drawn and frozen, B_t trained from 0 ("rac"), or the other way round ("rac_a")
                AsymmLoRA   the same with one link only
                XGBLoRA     as COLA, of rank 1, each link on layers drawn anew
Twin        none: both rooms use these functions; ``room`` is the module by_hand or by_autograd.
Checked by  tests/test_chains.py, where each law also fails for a chain with a planted bug.

The function is the same before and after a link begins, for a fresh adapter changes nothing; what a link does not train
keeps its bits. The rank of W_T - W_0 is at most R T, so the product of a chain is no small adapter file but weights.

Readings. RAC-LoRA's released code carries AdamW's moments over a merge, and so does COLA here; XGBLoRA starts afresh.
How many layers its link sits on is open: here a third, as 11 of 32 was the best of its ablation; its penalty
on |A|^2 + |B|^2 is the optimizer's weight decay; the steps are divided evenly among the links. B_t of "rac_a" is drawn
as A_t would be, with the other width. The last link stays attached: ``merging.fold`` ends a chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, sqrt
from typing import TYPE_CHECKING

import numpy as np

from .by_hand.methods import METHODS
from .config import TrainConfig
from .draws import uniform
from .init import attach
from .merging import fold
from .methods import Site
from .model import Model, encoder_shapes
from .room import Room

if TYPE_CHECKING:
    from .training import Between, Run

Array = np.ndarray


@dataclass(frozen=True)
class Chain:
    """A kind of chain.

    trains   the bases that train in a link; none named: all that the method trains
    rank     of a link, its natural one in comparisons
    links    how many there are unless TrainConfig.links says
    sampled  does a link sit on some layers only, drawn anew each time?
    forgets  does the optimizer start afresh with every link?
    """

    label: str
    paper: str
    trains: tuple[str, ...] = ()
    rank: int = 8
    links: int = 10
    sampled: bool = False
    forgets: bool = False


CHAINS = {
    "cola": Chain("COLA", "arXiv 2401.04151"),
    "rac": Chain("RAC-LoRA", "arXiv 2410.08305", trains=("B",)),
    "rac_a": Chain("RAC-LoRA, A trained", "arXiv 2410.08305", trains=("A",)),
    "asymm": Chain("AsymmLoRA", "arXiv 2402.16842", trains=("B",), links=1),
    "asymm_a": Chain("AsymmLoRA, A trained", "arXiv 2402.16842", trains=("A",), links=1),
    "xgblora": Chain("XGBLoRA", "arXiv 2410.19694", rank=1, sampled=True, forgets=True),
}


# --- one link --------------------------------------------------------------------------------------


def link_seed(seed: int, number: int) -> int:
    """The seed of a link's draws. The first link has the adapter's own, so that a chain of one is that adapter."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0]) if number else seed


def link_layers(layers: Sequence[int], seed: int, number: int) -> list[int]:
    """A third of the layers, rounded up, drawn uniformly without replacement for one link."""
    rng = np.random.default_rng([seed, number])
    return sorted(rng.choice(layers, size=ceil(len(layers) / 3), replace=False).tolist())


def layer_of(site: Site) -> int:
    """The layer that an adapted matrix is in: 3 of ``layers.3.query``."""
    return int(site.name.split(".")[1])


def begin_link(room: Room, model: Model, chain: str, seed: int, number: int) -> Model:
    """The adapter folded into the weights, and link ``number`` of the chain attached in its place, of NumPy arrays:
    drawn from ``seed`` and the number, with what this link trains in ``trained``. The function stays as it is."""
    kind, adapter = CHAINS[chain], replace(model.attached, seed=link_seed(seed, number))
    also = model.trained & encoder_shapes(model.config).keys()
    fresh = attach(room.to_numpy(fold(room, model)), adapter, also)
    if kind.trains:
        fresh = one_sided(fresh, kind.trains)
    if kind.sampled:
        layers = sorted({layer_of(site) for site in fresh.adapted.values()})
        chosen = link_layers(layers, seed, number)
        left = [name for name, site in fresh.adapted.items() if layer_of(site) not in chosen]
        fresh = fresh.training({n for n in fresh.trained if n.rpartition(".")[0] not in left})
    return fresh


def one_sided(model: Model, trains: tuple[str, ...]) -> Model:
    """A fresh LoRA (NumPy) of which only A or only B trains, from 0, while the other is drawn and stays."""
    kept = {n for n in model.trained if n.rpartition(".")[0] not in model.adapted or n.rpartition(".")[2] in trains}
    model = model.training(kept)
    if trains == ("B",):
        return model
    arrays: dict[str, Array] = {}
    for name, site in model.adapted.items():
        A_IR, B_RO = model.params[f"{name}.A"], model.params[f"{name}.B"]
        drawn_RO = uniform(model.attached.seed, f"{name}.B", B_RO.shape, 1 / sqrt(site.O))
        arrays |= {f"{name}.A": np.zeros_like(A_IR), f"{name}.B": drawn_RO.astype(B_RO.dtype)}
    return model.with_params(arrays)


def trained_in_link(chain: str, method: str, where: Sequence[Site]) -> int:
    """How many numbers one link trains on these matrices; where it sits on some layers only, on the first of them."""
    kind = CHAINS[chain]
    if kind.sampled:
        layers = sorted({layer_of(site) for site in where})
        where = [site for site in where if layer_of(site) in layers[: ceil(len(layers) / 3)]]
    return METHODS[method].size(where, kind.trains or METHODS[method].trained)


# --- a run -----------------------------------------------------------------------------------------


def chained(room: Room, model: Model, config: TrainConfig) -> Between:
    """What ``training.train`` calls before the first step and between the others: wherever a link begins, it is made.
    The draws are other ones in a run that goes on from an earlier one."""
    chain = config.chain or ""
    links, first = config.links or CHAINS[chain].links, model.attached.seed
    seed = first

    def between(run: Run) -> Model | None:
        nonlocal seed
        number = run.step * links // run.steps
        if run.step == 0:
            seed = link_seed(first, run.history.epochs)
        elif run.step == run.steps or number == (run.step - 1) * links // run.steps:
            return None
        run.forget = CHAINS[chain].forgets
        return begin_link(room, run.model, chain, seed, number)

    return between


# --- the form that RAC-LoRA's paper analyses -------------------------------------------------------


def sketched_minimiser(A_IR: Array, gradient_IO: Array, rate: float, scale: float) -> Array:
    """B (R, O) = -(rate / scale) (A^T A)^+ A^T gradient, one link solved exactly: scale A B = -rate H gradient with
    H = ``projector``(A), which is gradient descent in a random subspace. A sketch on the right is the transpose."""
    return -(rate / scale) * (np.linalg.pinv(A_IR) @ gradient_IO)


def projector(A_IR: Array) -> Array:
    """H (I, I) = A (A^T A)^+ A^T, onto the columns of A: H H = H = H^T, its trace is R, and E[H] = (R / I) 1 over
    isotropic draws."""
    return A_IR @ np.linalg.pinv(A_IR)
