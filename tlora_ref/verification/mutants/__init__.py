"""Seeded gradient bugs: the test of a gradient checker is whether it finds them.

mutant.py     what a mutant is, and the conditions under which one can be seen
adapters.py   bugs of TLoRA's and LoRA's layer        family.py    of their relatives' layers
ops.py        bugs of the encoder's operations        encoder.py   in how gradients are put together
triadapt.py   of the two triangles of TriAdaptLoRA
controls.py   not bugs: other ways to write the same gradient, which must survive

The list is of mistakes that people make. What it does not think of: every operator, constant, transpose, axis,
argument, condition and name of every backward in by_hand exchanged, one at a time. The properties of
tests/test_kernels.py and the encoder's gradients find all of these changes but the following, none of which
changes a gradient that was asked for:

    if want & {"x", "A"}  ->  if True            work whose result is thrown away; so too with a need_dx, a
                                                 ``below`` or a wrt that asks for more than is read, and with an
                                                 early return left out
    q_NHTK.shape[-3]  ->  k_NHTK.shape[-3]       sizes that the forward has found equal
    axis=0  ->  axis=-0,  reshape(-1)  ->  (-2)  the same number to NumPy
    c_again is not None  ->  c_norm_block        two that are given together; likewise dm where dm is ds, da where
                                                 da is dsum
    dtype=de_NTD.dtype  ->  left out             gradients have the dtype of the weights
    dM_RR.copy()  ->  dM_RR                      an array that no caller sees, in MTLoRA's core inside the layer;
                                                 and its check of wrt, which the layer has made before
    bool(trained)  ->  trained                   used for its truth only
    sorted(want)  ->  want                       the order of a dictionary's keys; [-1] for [1] of a pair
"""

from __future__ import annotations

from ...shapes import InputError
from . import adapters, controls, encoder, family, ops, triadapt
from .mutant import CONDITIONS, Mutant, holds

BUGS: tuple[Mutant, ...] = adapters.MUTANTS + family.MUTANTS + triadapt.MUTANTS + ops.MUTANTS + encoder.MUTANTS
CONTROLS: tuple[Mutant, ...] = controls.MUTANTS
ALL = BUGS + CONTROLS
FAMILIES = tuple(dict.fromkeys(mutant.family for mutant in BUGS))


def mutant(name: str) -> Mutant:
    """The mutant of that name. Raises InputError if there is none."""
    named = [m for m in ALL if m.name == name]
    if not named:
        raise InputError(f"there is no mutant {name!r}; there are {', '.join(m.name for m in ALL)}")
    return named[0]


__all__ = ["ALL", "BUGS", "CONDITIONS", "CONTROLS", "FAMILIES", "Mutant", "holds", "mutant"]
