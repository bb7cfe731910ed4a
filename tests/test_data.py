"""The digits: a fixed split, shifts that do what their names say."""

import hashlib

import numpy as np
import pytest

from tlora_ref import InputError
from tlora_ref.lab.data import SHIFTS, SPLIT, load_digits

UPRIGHT = load_digits()


def test_the_split_is_fixed_and_balanced():
    assert {name: len(part.y) for name, part in UPRIGHT.items()} == SPLIT
    assert sum(SPLIT.values()) == 1797
    images = np.concatenate([part.x for part in UPRIGHT.values()])
    assert images.shape == (1797, 8, 8)
    assert images.dtype == np.float32
    assert images.min() == 0
    assert images.max() == 1
    for part in UPRIGHT.values():
        shares = np.bincount(part.y, minlength=10) / len(part.y)
        assert np.abs(shares - 0.1).max() < 0.01
    seen = {name: {image.tobytes() for image in part.x} for name, part in UPRIGHT.items()}
    assert not seen["train"] & seen["test"]
    assert not seen["validation"] & seen["test"]
    digest = hashlib.sha256(UPRIGHT["test"].y.astype(np.uint8).tobytes()).hexdigest()[:16]
    assert digest == "70ee2850bb25b543"


@pytest.mark.parametrize("shift", SHIFTS)
def test_a_shift_keeps_labels_range_and_shape_and_owns_its_memory(shift):
    parts = load_digits(shift)
    for name, part in parts.items():
        np.testing.assert_array_equal(part.y, UPRIGHT[name].y)
        assert part.x.shape == UPRIGHT[name].x.shape
        assert part.x.dtype == np.float32
        assert part.x.flags.c_contiguous
        assert part.x.min() >= 0
        assert part.x.max() <= 1
        assert shift == "none" or (part.x != UPRIGHT[name].x).any()
    again = load_digits(shift)["test"].x
    np.testing.assert_array_equal(again, parts["test"].x)


def test_the_shifts_on_one_image():
    image = np.arange(9, dtype=np.float32).reshape(1, 3, 3) / 9
    turned = {name: shift(image)[0] * 9 for name, shift in SHIFTS.items()}
    np.testing.assert_allclose(turned["rot90"], [[2, 5, 8], [1, 4, 7], [0, 3, 6]], rtol=1e-6)
    np.testing.assert_allclose(turned["rot180"], [[8, 7, 6], [5, 4, 3], [2, 1, 0]], rtol=1e-6)
    np.testing.assert_allclose(turned["transpose"], [[0, 3, 6], [1, 4, 7], [2, 5, 8]], rtol=1e-6)
    np.testing.assert_allclose(turned["flip"], [[2, 1, 0], [5, 4, 3], [8, 7, 6]], rtol=1e-6)
    np.testing.assert_allclose(turned["invert"], [[9, 8, 7], [6, 5, 4], [3, 2, 1]], rtol=1e-6)


def test_an_unknown_shift_is_named():
    with pytest.raises(InputError, match="unknown shift 'rot45', expected one of none, rot90"):
        load_digits("rot45")
