"""Seeded gradient bugs: the test of a gradient checker is whether it finds them.

mutant.py     what a mutant is, and the conditions under which one can be seen
adapters.py   bugs of TLoRA's and LoRA's layer        family.py    of their relatives' layers
ops.py        bugs of the encoder's operations        encoder.py   in how gradients are put together
controls.py   not bugs: other ways to write the same gradient, which must survive
"""

from __future__ import annotations

from ...shapes import InputError
from . import adapters, controls, encoder, family, ops
from .mutant import CONDITIONS, Mutant, holds

BUGS: tuple[Mutant, ...] = adapters.MUTANTS + family.MUTANTS + ops.MUTANTS + encoder.MUTANTS
CONTROLS: tuple[Mutant, ...] = controls.MUTANTS
ALL = BUGS + CONTROLS
FAMILIES = tuple(dict.fromkeys(mutant.family for mutant in BUGS))


def mutant(name: str) -> Mutant:
    """The mutant of that name. Raises InputError if there is none."""
    found = [m for m in ALL if m.name == name]
    if not found:
        raise InputError(f"there is no mutant {name!r}; there are {', '.join(m.name for m in ALL)}")
    return found[0]


__all__ = ["ALL", "BUGS", "CONDITIONS", "CONTROLS", "FAMILIES", "Mutant", "holds", "mutant"]
