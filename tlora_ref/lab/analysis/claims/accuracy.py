"""What the trained numbers buy: accuracy beside LoRA's, what alpha and dropout add, and overfitting."""

from __future__ import annotations

from statistics import fmean

from ....paper import TABLE_3
from ..verdicts import Claim, Logged, within
from .words import Measured, gaps, interval, logged


def glue(m: Measured) -> Claim:
    """Table 3, GLUE with RoBERTa-large, which cannot be measured at this scale."""
    averages = {name: fmean(row) for name, row in TABLE_3.items()}
    return Claim(
        "GLUE",
        f"Not measured. The printed rows average {averages['TLoRA 0.049M']:.2f} and {averages['LoRA 0.8M']:.2f}.",
        "not measured",
        "Needs RoBERTa-large fine-tuned on MNLI, and GLUE.",
        "The printed accuracies are of the best epoch on the validation set, without a spread over seeds; those of "
        "QNLI and SST-2 are means over examples, those of RTE and MRPC means over batches. "
        "`python -m tlora_ref glue` runs it, on GLUE and a model of one's own, over several seeds.",
        unjudged="another model and data",
    )


def comparable(m: Measured) -> Claim:
    """Is TLoRA as accurate as LoRA of the same rank?"""
    gap, equal, margin = gaps(m, "tlora", "lora"), gaps(m, "tlora", "lora_equal"), 0.02
    n, everything = m["counts"], ""
    if "full" in m["accuracy"]:
        everything = f"; everything {interval(m['accuracy']['full'])} with {n['full']:,}"
    return Claim(
        "comparable accuracy",
        f"Test accuracy on {m['data']}: TLoRA r = {m['rank']} {interval(m['accuracy']['tlora'])} with "
        f"{n['tlora']:,} trained numbers; LoRA of the same rank {interval(m['accuracy']['lora'])} with {n['lora']:,}; "
        f"LoRA r = {m['equal_rank']} {interval(m['accuracy']['lora_equal'])} with {n['lora_equal']:,}"
        f"{everything}. TLoRA minus LoRA of the same rank, in points: "
        f"{interval(gap, 1, 100, True)}; minus LoRA of the same count: {interval(equal, 1, 100, True)}.",
        f"{interval(gap, 1, 100, True)} points",
        f"TLoRA at most {100 * margin:.0f} points below LoRA of the same rank.",
        f"{n['lora'] / n['tlora']:.1f} times fewer trained numbers than LoRA of the same rank at width {m['width']}; "
        "the factor is about 2 d / r, 64 at the paper's width. LoRA of the same count shows what the form of the "
        "update costs.",
        within(gap, low=-margin),
    )


def alpha_needed(m: Measured) -> Claim:
    """Does a learned alpha add anything to what B can do?"""
    gap, own = gaps(m, "tlora", "alpha_matched"), gaps(m, "tlora", "alpha_own")
    k, bound = m["conserved"], 0.01
    names = {"gd": "gradient descent", "momentum": "with momentum", "adamw": "AdamW"}
    drifts = "; ".join(f"{names[key]} {v[0]:.3f} and {v[-1]:.3f}" for key, v in k["drift"].items())
    return Claim(
        "alpha matters",
        f"Accuracy with alpha learned minus alpha fixed at 1, in points: {interval(gap, 1, 100, True)} at a matched "
        f"effective step (learning rate times the mean alpha along the run, {m['alpha_mean']:.2f}), "
        f"{interval(own, 1, 100, True)} when each has its own searched learning rate. alpha² − ||B||² at the end, "
        f"mean over matrices: {interval(m['conserved_end'], 1)}. Its largest drift from 1, at learning rates "
        f"{k['rates'][0]:g} and {k['rates'][-1]:g} over the same time, one layer learning a linear map: {drifts}.",
        f"{interval(gap, 1, 100, True)} points",
        f"At the matched step, learning alpha gains at least {100 * bound:.0f} point.",
        "(c alpha, B / c) is the same layer: alpha adds no function B could not give, only another way there. Under "
        "gradient flow alpha² − ||B||² is conserved, so alpha just follows ||B||; gradient descent breaks that by a "
        "drift that shrinks with the step, AdamW by one that does not.",
        within(gap, low=bound),
        logs=Logged(
            "alpha² − ||B||² at the end, 1 at the start", interval(m["conserved_end"], 1), logged("conserved", "g")
        ),
    )


def dropout(m: Measured) -> Claim:
    """Does dropout on the scaled update help?"""
    gap = gaps(m, "dropout", "tlora")
    return Claim(
        "dropout on the update",
        f"Test accuracy with dropout 0.5 minus without, in points: {interval(gap, 1, 100, True)}. Validation minus "
        "training loss of the trained model, neither with dropout: "
        f"{interval(m['generalisation']['dropout'], 2, sign=True)} "
        f"after training with it, {interval(m['generalisation']['tlora'], 2, sign=True)} without.",
        f"{interval(gap, 1, 100, True)} points",
        "Accuracy with dropout is higher.",
        "Each entry of the update is doubled or dropped: B sees a gradient of the right mean, with noise as large as "
        "the signal, in a subspace that is narrow already.",
        within(gap, low=0),
    )


def overfitting(m: Measured) -> Claim:
    """Figure 3: does the validation loss rise again?"""
    rise, bound = m["validation_rise"]["tlora"], 0.05
    names = {"tlora": "TLoRA", "lora": "LoRA of the same rank", "full": "everything"}
    rises = "; ".join(f"{names[key]} {interval(found, 1, 100)}" for key, found in m["validation_rise"].items())
    return Claim(
        "no overfitting",
        f"Validation loss at the end over the lowest of the run, minus 1, in %: {rises}. Validation minus training "
        "loss at the end, TLoRA: "
        f"{interval(m['generalisation']['tlora'], 2, sign=True)}.",
        f"{interval(rise, 1, 100)} %",
        f"At the end of training the validation loss is at most {100 * bound:.0f} % above its lowest.",
        "A model overfits from where its validation loss rises while its training loss falls. How far the two are "
        "apart is another question: they part with every method that learns its training examples.",
        within(rise, high=bound),
    )
