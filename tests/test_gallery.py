"""The gallery: the page is the generated one, every row is whole, and a picture shows what is trained."""

from pathlib import Path

import pytest

from tlora_ref.by_hand.methods import METHODS
from tlora_ref.chains import CHAINS
from tlora_ref.config import ALLOCATIONS
from tlora_ref.lab import gallery
from tlora_ref.lab.analysis import pictures

TUTORIALS = Path(__file__).parents[1] / "tutorials"
ENTRIES = {entry.name: entry for entry in gallery.entries()}


def test_the_page_is_the_one_that_is_generated():
    assert (TUTORIALS / "gallery.md").read_text(encoding="utf-8") == gallery.page()


def test_every_method_and_procedure_has_a_row():
    assert set(ENTRIES) == {*METHODS, *CHAINS, *ALLOCATIONS, "lora_rite"}
    for entry in ENTRIES.values():
        assert entry.equation, entry.name
        assert (TUTORIALS / entry.file).exists()
        assert (TUTORIALS / "images" / f"gallery_{entry.name}.png").exists()


@pytest.mark.parametrize(
    ("name", "trained", "needs", "merges"),
    [
        ("tlora", "12,336, R = 16", "nothing", "yes"),
        ("vera", "50,688, R = 32", "one frozen store for all matrices", "yes"),
        ("edora", "61,440, R = 16", "an SVD of W0, column norms of W0 + dW", "yes"),
        ("lorta", "9,056, R = 8", "one trained store for all matrices, the number of heads", "yes"),
        ("soda", "67,584", "an SVD of W0, a step that keeps Q orthogonal", "yes"),
        ("adapter_p", "417,984, R = 8", "a place in the block", "no"),
        ("rac", "393,216 at a time, R = 8", "weights that take every link up", "yes"),
        ("xgblora", "32,768 at a time, R = 1", "weights that take every link up", "yes"),
        ("gelora", "depends on the data", "a pass over data before", "yes"),
    ],
)
def test_a_row_says_what_the_method_is(name, trained, needs, merges):
    entry = ENTRIES[name]
    assert (entry.trained, entry.needs, entry.merges) == (trained, needs, merges)


def test_the_equation_of_a_procedure_is_its_own_line():
    assert ENTRIES["cola"].equation.splitlines()[1] == "A_t drawn, B_t = 0 at first, both trained"
    assert ENTRIES["gelora"].equation.startswith("R_l = max(d_(l+1) - d_l, 0) + 1")
    assert "R_l" not in ENTRIES["diffora"].equation
    assert gallery.cell("y = |x|,   s = 1.\nt") == "`y = \\|x\\|`<br>`s = 1`<br>`t`"


@pytest.mark.parametrize("method", list(METHODS))
def test_dark_is_what_trains(method):
    boxes = {box.label: box for box in pictures.of_method(METHODS[method])}
    dark = {label for label, box in boxes.items() if box.fill == pictures.DARK}
    assert dark == set(METHODS[method].trained)
    assert {label for label, box in boxes.items() if box.shared} == set(METHODS[method].shared)
    assert {"W0", "block"} & set(boxes)


def test_a_picture_is_drawn(tmp_path):
    for name in ("soda", "triadapt", "xgblora", "diffora", "lora_rite"):
        pictures.draw(tmp_path / f"{name}.png", name)
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
