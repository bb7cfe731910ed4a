"""The claims of the TLoRA paper, what was measured about each, and a verdict by a stated rule (verdicts.py).

Source      T. Islam, arXiv 2504.18735 (PRICAI 2025), in our own words; the released code where it differs.
Checked by  tests/test_audit.py: every verdict on constructed measurements.

A claim's function takes the measurements of jobs/audit.py (plain numbers, lists with one value per seed) and
returns a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import sqrt
from statistics import fmean
from typing import Any

import numpy as np

from ...by_hand.methods.tlora import factor_stds
from ...config import EncoderConfig
from ...counts import encoder_size, trained
from ...paper import TABLE_1, TABLE_3, VALIDATION
from .similarity import unrelated_cosine
from .statistics import column_effect, mean_interval
from .subspace import isotropic_share
from .verdicts import CANNOT, HOLDS_HERE, HOLDS_NOT_HERE, Claim, apart, beyond_chance, elsewhere, settled, within

Measured = Mapping[str, Any]

ROBERTA = EncoderConfig(
    width=1024, layers=24, heads=16, hidden=4096, time=512, vocab=50_265, classes=3, types=1, pad_id=1, pooler=True
)
"""RoBERTa-large with the three-way MNLI head."""


def _interval(values: Sequence[float], digits: int = 3, factor: float = 1, sign: bool = False) -> str:
    """ "mean [low, high]" over seeds."""
    found, form = mean_interval(values), f"{'+' if sign else ''}.{digits}f"
    # + 0.0 turns a rounded minus zero into zero
    mean, low, high = (format(round(factor * v, digits) + 0.0, form) for v in (found.mean, found.low, found.high))
    return f"{mean} [{low}, {high}]".replace("-", "−")


def _way(values: Sequence[float], control: Sequence[float], ceiling: Sequence[float]) -> list[float]:
    """How far each seed's value is on the way from the control (0) to the ceiling (1); nothing where that way is not
    there: its interval reaches zero, or there are fewer than three seeds."""
    spans = [top - bottom for top, bottom in zip(ceiling, control, strict=True)]
    whole = fmean(spans)
    if apart(spans) != HOLDS_HERE:
        return []
    return [(value - bottom) / whole for value, bottom in zip(values, control, strict=True)]


def _stretch(shares: Sequence[float]) -> str:
    return f"{_interval(shares, 2)} of the way" if shares else "no way to measure by"


def _gaps(m: Measured, one: str, other: str) -> list[float]:
    return [a - b for a, b in zip(m["accuracy"][one], m["accuracy"][other], strict=True)]


def counts(m: Measured) -> Claim:
    """Do the counts of Table 1 follow from the formulas?"""
    matrices = [(1024, 1024)] * 48
    ours = {r: (trained("tlora", matrices, r), trained("lora", matrices, r)) for r in TABLE_1}
    same = all(ours[r] == TABLE_1[r][:2] and round(ours[r][1] / ours[r][0]) == TABLE_1[r][2] for r in TABLE_1)
    return Claim(
        "trained counts",
        "Table 1: on query and value of RoBERTa-large TLoRA trains 3,120 / 12,336 / 49,200 numbers at r = 8 / 16 / 32, "
        "LoRA 786,432 / 1,572,864 / 3,145,728: 252 / 128 / 64 times as many.",
        "Table 1",
        "By formula, 48 (r² + 1) and 48 r (1024 + 1024): "
        + "; ".join(f"r = {r}: {t:,} and {lo:,}, ratio {lo / t:.1f}" for r, (t, lo) in ours.items())
        + ".",
        " / ".join(f"{t:,}" for t, _ in ours.values()),
        "All six counts equal, all three ratios equal after rounding.",
        settled(same),
        "The counts hold B and alpha of 48 matrices and no classifier head: the released code keeps the head frozen.",
    )


def ratio_252(m: Measured) -> Claim:
    """Is 252 the ratio to full fine-tuning, as the sentence on Table 1 says?"""
    tlora, lora = (trained(method, [(1024, 1024)] * 48, 8) for method in ("tlora", "lora"))
    full = encoder_size(ROBERTA)
    return Claim(
        "252 times",
        "TLoRA trains 252 times fewer numbers than full fine-tuning.",
        "text on Table 1",
        f"Full fine-tuning trains {full:,} numbers, {full / tlora:,.0f} times TLoRA's {tlora:,} at r = 8. "
        f"LoRA at r = 8 trains {lora:,}: {lora / tlora:.1f} times.",
        f"{full / tlora:,.0f} times",
        "The ratio to full fine-tuning rounds to 252.",
        settled(round(full / tlora) == 252),
        "252 is the ratio to LoRA of the same rank. Against the LoRA of rank 8 in the paper's own results table, "
        f"TLoRA at r = 32 trains {lora / trained('tlora', [(1024, 1024)] * 48, 32):.1f} times fewer.",
    )


def comparable(m: Measured) -> Claim:
    """Is TLoRA as accurate as LoRA of the same rank?"""
    gap, margin = _gaps(m, "tlora", "lora"), 0.02
    n = m["counts"]
    verdict = within(gap, low=-margin)
    factor = n["lora"] / n["tlora"]
    return Claim(
        "comparable accuracy",
        "TLoRA performs comparably to LoRA with far fewer trained numbers.",
        "abstract, Table 3",
        f"Test accuracy on turned digits: TLoRA r = {m['rank']} {_interval(m['accuracy']['tlora'])} with "
        f"{n['tlora']:,} trained numbers; LoRA of the same rank {_interval(m['accuracy']['lora'])} with {n['lora']:,}; "
        f"LoRA r = {m['equal_rank']} {_interval(m['accuracy']['lora_equal'])} with {n['lora_equal']:,}; everything "
        f"{_interval(m['accuracy']['full'])} with {n['full']:,}. TLoRA minus LoRA of the same rank, in points: "
        f"{_interval(gap, 1, 100, True)}; minus LoRA of the same count: "
        f"{_interval(_gaps(m, 'tlora', 'lora_equal'), 1, 100, True)}.",
        f"{_interval(gap, 1, 100, True)} points",
        f"TLoRA at most {100 * margin:.0f} points below LoRA of the same rank.",
        verdict,
        f"{factor:.1f} times fewer trained numbers than LoRA of the same rank at width {m['width']}; the factor grows "
        "with the width (2 d / r), so the other side of the bargain is small here. "
        "At an equal count, where only the form of the update differs, TLoRA is "
        + {
            HOLDS_HERE: "behind LoRA.",
            HOLDS_NOT_HERE: "not behind LoRA.",
            CANNOT: "not told apart from LoRA.",
        }[within(_gaps(m, "lora_equal", "tlora"), low=0)],
    )


def glue(_: Measured) -> Claim:
    """Table 3, GLUE with RoBERTa-large, which cannot be measured at this scale."""
    averages = {name: fmean(row) for name, row in TABLE_3.items()}
    return Claim(
        "GLUE",
        "On four GLUE tasks RoBERTa-large reaches 91.0 % on average with TLoRA's 0.049M trained numbers, against "
        "91.6 % with LoRA's 0.8M.",
        "Table 3",
        f"Not measured. The printed rows average {averages['TLoRA 0.049M']:.2f} and {averages['LoRA 0.8M']:.2f}.",
        "not measured",
        "Needs RoBERTa-large fine-tuned on MNLI, and GLUE.",
        elsewhere(),
        "The printed accuracies are of the best epoch on the validation set, without a spread over seeds. "
        "`python -m tlora_ref glue` runs it, on GLUE and a model of one's own, over several seeds.",
    )


def gaussian(m: Measured) -> Claim:
    """Figure 4: do the entries of B become Gaussian-like?"""
    d = m["distribution"]
    return Claim(
        "B Gaussian-like",
        "The entries of B, all zero at the start, become Gaussian-like in training.",
        "abstract, figure 4",
        f"Over {m['seeds']} seeds and {m['matrices']} matrices of {m['rank']}² entries: |skewness| "
        f"{_interval(d['skewness'], 2)}, |excess kurtosis| {_interval(d['excess_kurtosis'], 2)}; share of matrices "
        f"below 0.5 and 1: {_interval(d['gaussian_share'], 2)}. Normality rejected at 5 % in "
        f"{100 * fmean(d['rejected_share']):.0f} % of them. For comparison, everything's dW seen through the same "
        f"frozen factors, Aᵀ dW Cᵀ: |excess kurtosis| {_interval(d['projected_kurtosis'], 2)}; dW itself: "
        f"{_interval(d['full_kurtosis'], 2)}.",
        f"kurtosis {_interval(d['excess_kurtosis'], 2)}",
        "|skewness| < 0.5 and |excess kurtosis| < 1 in at least 80 % of the matrices.",
        within(d["gaussian_share"], low=0.8),
        "A sum of many entries weighted by random factors: dB = alpha (x A)ᵀ (G Cᵀ), and A and C are Gaussian, so B "
        "tends to look Gaussian whatever is learned. A test of normality on few entries overlooks mild departures, on "
        "many it finds negligible ones; the verdict goes by the size of the moments.",
    )


def stable_norms(m: Measured) -> Claim:
    """Figure 5: does the norm of B settle towards the end of training?"""
    return Claim(
        "norms settle",
        "The norm of B grows early in training and is stable towards the end.",
        "abstract, figure 5",
        f"In the last quarter of the epochs ||B|| changes by {_interval(m['late_growth'], 1, 100)} % of itself. The "
        f"schedule leaves {100 * m['schedule_share']:.1f} % of the summed learning rate to that quarter.",
        f"{_interval(m['late_growth'], 1, 100)} %",
        "At most 5 % change in the last quarter of the epochs.",
        within(m["late_growth"], high=0.05),
        "The learning rate decays linearly to zero, so every norm settles, whatever was learned. The norms of A and C "
        "are "
        "constants: nothing trains them.",
    )


def alpha_layers(m: Measured) -> Claim:
    """Figure 6: does alpha differ between layers by more than between seeds?"""
    tables = [np.array(m["alpha"][kind]) for kind in ("query", "value")]
    p = column_effect(tables)
    between = sqrt(fmean(t.mean(axis=0).var(ddof=1) for t in tables))
    noise = sqrt(fmean(t.var(axis=0, ddof=1).mean() for t in tables)) if m["seeds"] > 1 else float("nan")
    spread = [fmean(np.ptp(t[s]) for t in tables) for s in range(m["seeds"])]
    return Claim(
        "alpha over layers",
        "The learned alpha varies across layers, which shows how much each needs to adapt.",
        "abstract, figure 6",
        f"Within a run the largest and the smallest alpha over layers differ by {_interval(spread, 2)}. Standard "
        f"deviation between layers, of the means over seeds: {between:.2f}; between seeds, of one and the same matrix: "
        f"{noise:.2f}. Permutation test that layers are exchangeable within a run: p = {p:.2g}.",
        f"{between:.2f} between layers, {noise:.2f} between seeds",
        "The permutation test rejects at 5 %: the pattern over layers is the same in another seed's run.",
        beyond_chance(p, m["seeds"]),
        "One run always shows variation over layers, and a single run is what the figure shows. Only the part that "
        "comes back with another seed belongs to the layers. And alpha alone is not the strength of an update: "
        f"alpha ||B|| is. Over matrices and seeds the two correlate at {m['alpha_B_correlation']:+.2f}.",
    )


def alpha_kinds(m: Measured) -> Claim:
    """Figure 6: does alpha differ between query and value matrices?"""
    query, value = (np.array(m["alpha"][kind]).mean(axis=1) for kind in ("query", "value"))
    return Claim(
        "alpha of q and v",
        "The learned alpha of query and value matrices differ.",
        "figure 6",
        f"Mean over layers of alpha: query {_interval(query, 2)}, value {_interval(value, 2)}; query minus value "
        f"{_interval(query - value, 2, sign=True)}.",
        _interval(query - value, 2, sign=True),
        "The interval of the difference over seeds leaves out zero.",
        apart(list(query - value)),
        "The null is the same difference in runs with other seeds: other A, C and batches.",
    )


def norms_like_lora(m: Measured) -> Claim:
    """Are the norms of TLoRA's updates those of LoRA's?"""
    return Claim(
        "norms like LoRA's",
        "TLoRA's parameter norms resemble LoRA's.",
        "abstract",
        f"||dW|| of TLoRA over that of LoRA of the same rank, geometric mean over matrices: "
        f"{_interval(m['norm_ratio'], 2)}. ||dW|| / ||W0||: TLoRA {_interval(m['relative_norm']['tlora'], 2)}, LoRA "
        f"{_interval(m['relative_norm']['lora'], 2)}. Effective rank of dW: TLoRA "
        f"{_interval(m['effective_rank']['tlora'], 1)}, LoRA {_interval(m['effective_rank']['lora'], 1)}, everything "
        f"{_interval(m['effective_rank']['full'], 1)}.",
        _interval(m["norm_ratio"], 2),
        "The ratio of the norms of the updates between 0.8 and 1.25.",
        within(m["norm_ratio"], 0.8, 1.25),
        "Factors of different shapes and scales cannot be compared; the updates they make can.",
    )


def eigenvalues_like_lora(m: Measured) -> Claim:
    """Figure 8: are the eigenvalues of the adapted matrix those that LoRA gives?"""
    e = m["eigenvalues"]
    shares = _way(e["adapted"], e["adapted_control"], e["adapted_ceiling"])
    return Claim(
        "eigenvalues like LoRA's",
        "The adapted matrix has the same distribution of eigenvalues under TLoRA as under LoRA.",
        "abstract, figure 8",
        f"Distance between the moduli of TLoRA's and LoRA's eigenvalues, W0 + dW: {_interval(e['adapted'], 3)}. With a "
        f"random B of the same update norm in TLoRA's place: {_interval(e['adapted_control'], 3)}; LoRA with another "
        f"seed: {_interval(e['adapted_ceiling'], 3)}. Of dW alone: {_interval(e['update'], 3)}, "
        f"{_interval(e['update_control'], 3)} and {_interval(e['update_ceiling'], 3)}.",
        _stretch(shares),
        "On W0 + dW, at least half of the way from an untrained TLoRA update of the same norm to LoRA with another "
        "seed.",
        within(shares, low=0.5),
        "W0's own spectrum is in both histograms; the control has it too and has learned nothing. Two LoRA runs that "
        "differ in the seed show how near two spectra come when the method is the same.",
    )


def cosine_adapted(m: Measured) -> Claim:
    """Figure 10 as published: the cosine of adapted matrices, which both contain W0."""
    c, norms = m["cosine"], m["relative_norm"]
    shares = _way(c["published"], c["published_control"], c["published_ceiling"])
    return Claim(
        "cosine as published",
        "TLoRA's and LoRA's adapted matrices have a high cosine similarity, so their updates are alike.",
        "abstract, figures 9 and 10",
        f"cos(W0 + dW, W0 + dW'), computed as released: {_interval(c['published'], 2)}; with LoRA's scale "
        f"{_interval(c['with_scale'], 2)}; with the transpose {_interval(c['with_transpose'], 2)}; with both "
        f"{_interval(c['adapted'], 2)}. Two unrelated random updates of the same norms: "
        f"{_interval(c['published_control'], 2)} as released, {_interval(c['adapted_control'], 2)} with both. LoRA and "
        f"LoRA with another seed: {_interval(c['published_ceiling'], 2)} as released. Relative difference of the "
        "adapted "
        f"matrices: {_interval(m['relative_difference']['adapted'], 2)}.",
        _stretch(shares),
        "As released, at least half of the way from two unrelated updates to two LoRA runs that differ in the seed.",
        within(shares, low=0.5),
        "Both matrices contain W0. Updates of relative norms rho and rho' that have nothing in common score "
        "1 / sqrt((1 + rho²)(1 + rho'²)): 0.99 where both are 0.1. Here they are "
        f"{fmean(norms['tlora']):.2f} and {fmean(norms['lora']):.2f}, which gives "
        f"{unrelated_cosine(fmean(norms['tlora']), fmean(norms['lora'])):.2f}.",
    )


def cosine_updates(m: Measured) -> Claim:
    """The cosine of the updates alone, without W0."""
    c = m["cosine"]
    shares = _way(c["update"], c["update_control"], c["update_ceiling"])
    return Claim(
        "cosine of the updates",
        "TLoRA's updates resemble LoRA's.",
        "abstract, figure 10",
        f"cos(dW, dW'): {_interval(c['update'], 2)}. Two unrelated random updates of the same norms: "
        f"{_interval(c['update_control'], 2)}; LoRA and LoRA with another seed: {_interval(c['update_ceiling'], 2)}; "
        "TLoRA "
        f"and TLoRA with another seed: {_interval(c['tlora_ceiling'], 2)}; everything and LoRA: "
        f"{_interval(c['full_lora'], 2)}. Column spaces of the two updates overlap by {_interval(c['overlap'], 2)} "
        "(random "
        f"ones: {c['overlap_random']:.2f}). Relative difference of the updates: "
        f"{_interval(m['relative_difference']['update'], 2)}.",
        f"{_interval(c['update'], 2)}, {_stretch(shares)}",
        "At least half of the way from two unrelated updates to two LoRA runs that differ in the seed.",
        within(shares, low=0.5),
        "Measured on what was learned: W0 left out, the scale in, both in one orientation. TLoRA's subspace is another "
        "one "
        "with every seed, which is why two TLoRA runs have little in common as well.",
    )


def approximates(m: Measured) -> Claim:
    """How much of LoRA's update fits into TLoRA's fixed subspace?"""
    c, d, r = m["captured"], m["width"], m["rank"]
    return Claim(
        "can hold LoRA's update",
        "TLoRA can effectively approximate the adaptation LoRA finds.",
        "abstract",
        f"Share of LoRA's ||dW||² that fits into TLoRA's subspace: {_interval(c['lora'], 2)}; of everything's dW: "
        f"{_interval(c['full'], 2)}; of random targets: {_interval(c['isotropic'], 3)}; by theory r²/(d_in d_out) = "
        f"{isotropic_share(d, d, r):.3f}. LoRA's optimum, the best matrix of rank {r} by SVD, holds "
        f"{_interval(c['best'], 2)} of everything's dW.",
        _interval(c["lora"], 2),
        "At least half of LoRA's update, in squared norm, lies in TLoRA's subspace.",
        within(c["lora"], low=0.5),
        "The subspace is drawn before anything is known about the task. TLoRA has to find another update that does the "
        f"job, inside it. For RoBERTa-large at r = 32 the isotropic share is {isotropic_share(1024, 1024, 32):.2g}.",
    )


def alpha_needed(m: Measured) -> Claim:
    """Does a learned alpha add anything to what B can do?"""
    gap, own = _gaps(m, "tlora", "alpha_matched"), _gaps(m, "tlora", "alpha_own")
    k, bound = m["conserved"], 0.01
    names = {"gd": "gradient descent", "momentum": "with momentum", "adamw": "AdamW"}
    drifts = "; ".join(f"{names[key]} {v[0]:.3f} and {v[-1]:.3f}" for key, v in k["drift"].items())
    return Claim(
        "alpha matters",
        "The learned, layer-wise alpha adds to what B can do.",
        "abstract",
        f"Accuracy with alpha learned minus alpha fixed at 1, in points: {_interval(gap, 1, 100, True)} at a matched "
        f"effective step (learning rate times the mean alpha along the run, {m['alpha_mean']:.2f}), "
        f"{_interval(own, 1, 100, True)} when each has its own searched learning rate. Largest drift of "
        f"alpha² − ||B||² from 1, at learning rates {k['rates'][0]:g} and {k['rates'][-1]:g} over the same time, one "
        "layer "
        f"learning a linear map: {drifts}.",
        f"{_interval(gap, 1, 100, True)} points",
        f"At the matched step, learning alpha gains at least {100 * bound:.0f} point.",
        within(gap, low=bound),
        "(c alpha, B / c) is the same layer: alpha adds no function B could not give, only another way there. Under "
        "gradient flow alpha² − ||B||² is conserved, so alpha just follows ||B||; gradient descent breaks that by a "
        "drift that shrinks with the step, AdamW by one that does not.",
    )


def kaiming(m: Measured) -> Claim:
    """Does the released draw of A and C keep a signal's scale at any width, as Kaiming's rule does?"""
    i = m["init"]
    released, standard = i["released"], i["fan_in"]
    ratios = {
        f"{I} x {O}": np.divide(*(np.prod(factor_stds(rule, I, O, m["rank"])) for rule in ("released", "fan_in")))
        for I, O in ((64, 64), (64, 256), (256, 64))
    }
    return Claim(
        "Kaiming draw",
        "A and C are drawn by Kaiming's rule, whose purpose is that a signal keeps its scale at any width.",
        "text, released code",
        f"Standard deviation of x A for x of unit variance, r = 32, d_in = {i['widths'][0]} and {i['widths'][-1]}: "
        f"released {released[0]:.2f} and {released[-1]:.2f}, with fan-in d_in {standard[0]:.2f} and "
        f"{standard[-1]:.2f}. "
        "Effective step (std A times std C), released over fan-in: "
        + ", ".join(f"{ratio:.2f} for {size}" for size, ratio in ratios.items())
        + f". Accuracy, fan-in minus released, in points: {_interval(_gaps(m, 'fan_in', 'tlora'), 1, 100, True)}.",
        f"{released[0]:.2f} to {released[-1]:.2f}",
        "The standard deviation of x A under the released draw changes by less than 10 % over the widths.",
        settled(abs(released[-1] / released[0] - 1) < 0.1),
        "Stored (in, r), A gets r for its fan-in, so x A grows with sqrt(d_in / 3 r). But C is smaller by the same "
        "factor where d_in = d_out, and only their product reaches dW: on square matrices such as q and v the two "
        "draws "
        "make the same method. On others the rule multiplies the effective step by sqrt(d_in / d_out).",
    )


def dropout(m: Measured) -> Claim:
    """Does dropout on the scaled update help?"""
    gap = _gaps(m, "dropout", "tlora")
    return Claim(
        "dropout on the update",
        "Dropout of 0.5 on the scaled update belongs to the recipe: it should help TLoRA to generalise.",
        "text, recipe",
        f"Test accuracy with dropout 0.5 minus without, in points: {_interval(gap, 1, 100, True)}. Validation minus "
        "training loss of the trained model, neither with dropout: "
        f"{_interval(m['generalisation']['dropout'], 2, sign=True)} "
        f"after training with it, {_interval(m['generalisation']['tlora'], 2, sign=True)} without.",
        f"{_interval(gap, 1, 100, True)} points",
        "Accuracy with dropout is higher.",
        within(gap, low=0),
        "Each entry of the update is doubled or dropped: B sees a gradient of the right mean, with noise as large as "
        "the signal, in a subspace that is narrow already.",
    )


def three_matrices(m: Measured) -> Claim:
    """Is the printed count that of query, value and output, as section 4 says?"""
    two, three = (trained("tlora", [(1024, 1024)] * 24 * k, 32) for k in (2, 3))
    return Claim(
        "three matrices a layer",
        "TLoRA is applied to query, value and output projection.",
        "section 4",
        f"At r = 32 on RoBERTa-large: two matrices a layer {two:,}, three {three:,}. Printed: 49,200.",
        f"{three:,}",
        "The printed count is that of three matrices.",
        settled(three == TABLE_1[32][0]),
        "The released code and every printed count have query and value only.",
    )


def average(m: Measured) -> Claim:
    """Is the average accuracy 81.48 %, as section 4 says, or the mean of Table 3?"""
    found = fmean(TABLE_3["TLoRA 0.049M"])
    return Claim(
        "average 81.48 %",
        "TLoRA's average accuracy over the tasks is 81.48 %.",
        "section 4",
        f"The mean of TLoRA's row of Table 3 is {found:.2f}.",
        f"{found:.2f}",
        "Equal to the mean of the printed row within 0.1.",
        settled(abs(found - 81.48) < 0.1),
        "The text contradicts the table.",
    )


def rate_zero(m: Measured) -> Claim:
    """Can the learning rate be 0, as Table 2 prints?"""
    return Claim(
        "learning rate 0",
        "TLoRA is trained with a learning rate of 0.",
        "Table 2",
        f"An epoch at learning rate 0 changes the trained numbers by at most {m['rate_zero_change']:g}.",
        f"{m['rate_zero_change']:g}",
        "Anything changes.",
        settled(m["rate_zero_change"] > 0),
        "A rounding slip: the released code uses 0.001.",
    )


def attainable(m: Measured) -> Claim:
    """Can one run on the validation sets have the accuracies of Table 3?"""
    row = dict(zip(VALIDATION, TABLE_3["TLoRA 0.049M"], strict=True))

    def closest(task: str, value: float) -> float:
        return 100 * round(value / 100 * VALIDATION[task]) / VALIDATION[task]

    nearest = {task: closest(task, v) for task, v in row.items()}
    off = [task for task, v in row.items() if abs(nearest[task] - v) > 0.0501]
    others = [(t, v) for name, values in TABLE_3.items() if name != "TLoRA 0.049M"
              for t, v in zip(VALIDATION, values, strict=True)]  # fmt: skip
    n_off = sum(abs(closest(t, v) - v) > 0.0501 for t, v in others)
    return Claim(
        "accuracies of one run",
        "TLoRA's entries of Table 3 are accuracies on the validation sets.",
        "Table 3, released log",
        "; ".join(f"{t}: printed {v:.1f}, nearest k / {VALIDATION[t]:,} {nearest[t]:.2f}" for t, v in row.items())
        + f". Of the {len(others)} entries of the other methods {n_off} round from no k / n.",
        f"{len(off)} of {len(row)} are not",
        "Every entry rounds from some k / n.",
        settled(not off),
        f"{' and '.join(off) or 'None'} cannot be one run's share of right answers. A mean over several runs could be, "
        "and "
        "so could what the released log holds: means over batches, the last and smaller one counted like the others.",
    )


CLAIMS: tuple[Callable[[Measured], Claim], ...] = (
    comparable, glue, counts, ratio_252, gaussian, stable_norms, alpha_layers, alpha_kinds, alpha_needed,
    norms_like_lora, eigenvalues_like_lora, cosine_adapted, cosine_updates, approximates, kaiming, dropout,
    three_matrices, average, rate_zero, attainable,
)  # fmt: skip


def judge(m: Measured) -> list[Claim]:
    """Judge every claim."""
    return [claim(m) for claim in CLAIMS]
