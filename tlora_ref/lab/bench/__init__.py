"""Measurements: ratios between things that run in turn in one process.

timing.py    interleaved repeats, medians and spread; what the machine is
layers.py    one adapted layer in torch, beside PEFT's and loralib's; candidates.py: other ways to compute it
kernels.py   which BLAS kernels are in use, and what holds them back
encoder.py   a step by hand, beside eager PyTorch and the matrix products alone; peers.py: HIPS autograd and JAX
minilm.py    a step of MiniLM with TLoRA on all layers, by hand and in PyTorch
methods.py   a training step with every registered method
memory.py    what is kept for a backward, and bytes over rank and model size
check.py     what a gradient check costs
tricks.py    what the tricks of by_hand/fast.py gain
gpu.py       a RoBERTa-large-shaped model's step on a device
figures.py   the charts
stored.py    what the stored run says about the cost of a layer
results/     the JSON of the runs behind the tables of the pages
"""
