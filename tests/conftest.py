"""Two hypothesis profiles, neither with a deadline. "tlora_ref", the default, has the same examples on every machine;
"drawn" has those of ``--hypothesis-seed``: pytest --hypothesis-profile drawn --hypothesis-seed 1."""

import os

# Before NumPy is loaded, and for every process that a test starts: the matrices are small, and where other work holds a
# core two threads of BLAS wait for each other a hundred times as long as they compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import HealthCheck, settings

settings.register_profile(
    "tlora_ref", deadline=None, derandomize=True, max_examples=40, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("drawn", settings.get_profile("tlora_ref"), derandomize=False, database=None)
settings.load_profile("tlora_ref")
