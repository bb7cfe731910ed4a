"""What training did, and the plots of it. Everything but the plots is a pure function of models, matrices, histories.

updates.py       dW of a trained model, by adapter or by full fine-tuning
norms.py         norms of the factors; alpha and ||B|| along a run
distribution.py  histogram, normal fit, moments, a test of normality
spectra.py       eigenvalues, singular values, effective rank
similarity.py    cosine, relative difference, principal angles, and what unrelated updates would give
subspace.py      which share of an update TLoRA's fixed subspace can hold, and LoRA's optimum beside it
conserved.py     alpha^2 - ||B||^2 along gradient descent, momentum and AdamW
steps.py         how far one step moves dW, and how to carry a learning rate from size to size
statistics.py    what a handful of seeds can say
measures.py      from the runs of the audit to plain numbers, with controls and ceilings
claims/          the paper's claims, and what was measured about each
verdicts.py      the rules that choose a verdict
misprints.py     where the paper contradicts itself or its code
plots.py         one style for all figures: readable in print, in grey and for the colour-blind
audit_plots.py   the figures of the paper, drawn again
pictures.py      the pictures of the gallery: what of each method is trained
subspace_plots.py  the figures of the job subspace
page.py          the audit as one HTML page that opens from disk
"""
