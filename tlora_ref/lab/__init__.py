"""The experiments: what ``python -m tlora_ref JOB`` runs, and what the jobs measure and draw.

jobs/              one file per command
analysis/          what training did: updates, norms, spectra, similarity; the audit of the paper's claims; plots
bench/             speed and memory, and the stored results behind every table
glue/              the paper's experiment: a transformers model on a GLUE task
digits.py          the encoder pretrained on upright digits and adapted to turned ones, which several jobs share
learning_rates.py  which learning rate each setup gets, by one rule for all
informed.py        TLoRA on the digits between frozen factors of every kind; informed_text.py, on questions
data.py            the digits and their shifts
gallery.py         tutorials/gallery.md: every method and procedure as a row
questions.py       TREC's questions and the kinds of answers they ask for
language.py        a language model adapted to them, and the runs behind the claims there
study.py           the runs behind the claims, at either scale
rooms.py           by hand or in PyTorch: one interface for the jobs that run in either
damage.py          adapter files damaged in every way, which the loader has to refuse
runs.py            many runs in several processes, resumable
"""
