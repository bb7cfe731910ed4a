"""Verification of hand-written gradients.

oracles.py   gradients from function values alone: complex step, central differences
"""

from .oracles import central_gradient, complex_step_gradient, relative_error

__all__ = ["central_gradient", "complex_step_gradient", "relative_error"]
