"""TLoRA's updates beside LoRA's: norms, eigenvalues, cosines, each between a control that has learned nothing and a
ceiling, two LoRA runs that differ in the seed."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log
from statistics import fmean

from ....paper import RELEASED_EPOCHS
from ..similarity import unrelated_cosine
from ..verdicts import LEVEL, Claim, Evidence, apart, within
from .words import Measured, interval

SMALL = 0.2
"""||dW|| / ||W0|| up to which likeness is judged. In the released runs it is about 0.1: where an update is larger than
the matrix it changes, a likeness of adapted matrices says nothing about the paper's."""


def norms_like_lora(m: Measured) -> Claim:
    """Figure 7: are the norms of TLoRA's updates those of LoRA's?"""
    bounds = (0.8, 1.25)
    logs = [log(ratio) for ratio in m["norm_ratio"]["spectral"]]
    names = {"tlora": "TLoRA", "lora": "LoRA", "full": "everything"}
    ranks = ", ".join(f"{names[key]} {interval(found, 1)}" for key, found in m["effective_rank"].items())
    return Claim(
        "norms like LoRA's",
        "Spectral norm of TLoRA's dW over that of LoRA of the same rank, geometric mean over matrices: "
        f"{interval(m['norm_ratio']['spectral'], 2)}; Frobenius norm: {interval(m['norm_ratio']['frobenius'], 2)}. "
        f"||dW|| / ||W0||, Frobenius: TLoRA {interval(m['relative_norm']['tlora'], 2)}, LoRA "
        f"{interval(m['relative_norm']['lora'], 2)}. Effective rank of dW: {ranks}.",
        f"{exp(fmean(logs)):.2f}, in spectral norm",
        f"The ratio of the spectral norms, geometric mean over seeds, between {bounds[0]:g} and {bounds[1]:g}.",
        "Factors of different shapes and scales cannot be compared; the updates they make can.",
        within(logs, log(bounds[0]), log(bounds[1])),
    )


def eigenvalues_like_lora(m: Measured) -> Claim:
    """Figure 8: are the eigenvalues of the adapted matrix those that LoRA gives?"""
    e = m["eigenvalues"]
    evidence, unjudged, share = _half_way(m, e["adapted"], e["adapted_control"], e["adapted_ceiling"])
    return Claim(
        "eigenvalues like LoRA's",
        f"Distance between the real parts of TLoRA's and LoRA's eigenvalues, in order of size, W0 + dW: "
        f"{interval(e['adapted'], 3)}. With a "
        f"random B of the same update norm in TLoRA's place: {interval(e['adapted_control'], 3)}; LoRA with another "
        f"seed: {interval(e['adapted_ceiling'], 3)}. Of dW alone: {interval(e['update'], 3)}, "
        f"{interval(e['update_control'], 3)} and {interval(e['update_ceiling'], 3)}. Share of positive real parts: "
        f"TLoRA {interval(e['positive_tlora'], 2)}, LoRA {interval(e['positive_lora'], 2)}.",
        share,
        "On W0 + dW, at least half of the way from an untrained TLoRA update of the same norm to LoRA with another "
        "seed.",
        "W0's own spectrum is in both histograms; the control has it too and has learned nothing. Two LoRA runs that "
        "differ in the seed show how near two spectra come when the method is the same. In the released runs LoRA "
        f"trained for {RELEASED_EPOCHS['lora']} epochs, TLoRA for {RELEASED_EPOCHS['tlora']}.",
        evidence,
        unjudged=unjudged,
    )


def cosine_adapted(m: Measured) -> Claim:
    """Figure 10 as published: the cosine of adapted matrices, which both contain W0."""
    c, norms = m["cosine"], m["relative_norm"]
    evidence, unjudged, share = _half_way(m, c["published"], c["published_control"], c["published_ceiling"])
    return Claim(
        "cosine as published",
        f"cos(W0 + dW, W0 + dW'), computed as released: {interval(c['published'], 2)}; with LoRA's scale "
        f"{interval(c['with_scale'], 2)}; with the transpose {interval(c['with_transpose'], 2)}; with both "
        f"{interval(c['adapted'], 2)}. Two unrelated random updates of the same norms: "
        f"{interval(c['published_control'], 2)} as released, {interval(c['adapted_control'], 2)} with both. LoRA and "
        f"LoRA with another seed: {interval(c['published_ceiling'], 2)} as released. Relative difference of the "
        f"adapted matrices: {interval(m['relative_difference']['adapted'], 2)}.",
        share,
        "As released, at least half of the way from two unrelated updates to two LoRA runs that differ in the seed.",
        "Both matrices contain W0. Updates of relative norms rho and rho' that have nothing in common score "
        "1 / sqrt((1 + rho²)(1 + rho'²)): 0.99 where both are 0.1. Here they are "
        f"{fmean(norms['tlora']):.2f} and {fmean(norms['lora']):.2f}, which gives "
        f"{unrelated_cosine(fmean(norms['tlora']), fmean(norms['lora'])):.2f}.",
        evidence,
        unjudged=unjudged,
    )


def cosine_updates(m: Measured) -> Claim:
    """The cosine of the updates alone, without W0."""
    c = m["cosine"]
    everything = f"; everything and LoRA: {interval(c['full_lora'], 2)}" if "full_lora" in c else ""
    evidence, unjudged, share = _half_way(m, c["update"], c["update_control"], c["update_ceiling"])
    return Claim(
        "cosine of the updates",
        f"cos(dW, dW'): {interval(c['update'], 2)}. Two unrelated random updates of the same norms: "
        f"{interval(c['update_control'], 2)}; LoRA and LoRA with another seed: {interval(c['update_ceiling'], 2)}; "
        f"TLoRA and TLoRA with another seed: {interval(c['tlora_ceiling'], 2)}{everything}. "
        f"Column spaces of the two updates overlap by {interval(c['overlap'], 2)} "
        f"(random ones: {c['overlap_random']:.2f}). Relative difference of the updates: "
        f"{interval(m['relative_difference']['update'], 2)}.",
        f"{interval(c['update'], 2)}, {share}",
        "At least half of the way from two unrelated updates to two LoRA runs that differ in the seed.",
        "Measured on what was learned: W0 left out, the scale in, both in one orientation. TLoRA's subspace is another "
        "one with every seed, which is why two TLoRA runs have little in common as well.",
        evidence,
        unjudged=unjudged,
    )


def _half_way(
    m: Measured, values: Sequence[float], control: Sequence[float], ceiling: Sequence[float]
) -> tuple[Evidence | None, str, str]:
    """What the seeds say about "at least half of the way from the control to the ceiling", why they say nothing, and
    the way in words. A seed's ceiling shares a run with the next seed's, so its interval is an approximate one."""
    spans = [top - bottom for top, bottom in zip(ceiling, control, strict=True)]
    there, whole = apart(spans), fmean(spans)
    if there is None or there.p >= LEVEL:
        return None, "control and ceiling do not differ", "no way to measure by"
    shares = [(value - bottom) / whole for value, bottom in zip(values, control, strict=True)]
    share = f"{interval(shares, 2)} of the way"
    rho = max(fmean(m["relative_norm"][key]) for key in ("tlora", "lora"))
    if rho > SMALL:
        return None, f"||dW|| is {rho:.1f} of ||W0||, not 0.1", share
    # value - control - span / 2, with the sign that makes likeness positive
    sign = 1 if whole > 0 else -1
    margins = [sign * (v - bottom - span / 2) for v, bottom, span in zip(values, control, spans, strict=True)]
    return within(margins, low=0), "", share
