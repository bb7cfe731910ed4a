"""What a student wrote is kept whole, stands in for itself in later notebooks, and makes an encoder's gradients."""

import importlib
import re
import sys
from importlib import import_module

import nbformat
import numpy as np
import pytest
from scipy.special import ndtr

from tlora_ref import AdapterConfig, EncoderConfig, InputError, TrainConfig, attach, by_hand, init_encoder, train
from tlora_ref.course import check, exercises
from tlora_ref.course.by_mine import PIECES, by_mine
from tlora_ref.course.grader import after_right
from tlora_ref.course.job import solved
from tlora_ref.course.mine import FOLLOWED, HEAD, keep, stand_in, start_keeping


def worked(called):
    number, name = FOLLOWED[called]
    return getattr(import_module(f"tlora_ref.course.solutions.nb{number}"), name)


MINE = {
    "backward": worked("my_backward"),
    "dx": worked("my_dx"),
    "gelu": worked("my_gelu_dx"),
    "layer_norm": worked("my_layer_norm_dx"),
    "attention": worked("my_attention_backward"),
    "cross_entropy": worked("my_cross_entropy_dlogits"),
    "mean_pool": lambda dout_ND, T: np.repeat(dout_ND[:, None] / T, T, axis=1),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of notebooks, whose mine.py can be imported."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = list(after_right)
    yield tmp_path
    after_right[:] = before
    sys.modules.pop("mine", None)


def mine():
    importlib.invalidate_caches()
    sys.modules.pop("mine", None)
    return importlib.import_module("mine")


# --- the file ---------------------------------------------------------------------------------------

SCALE = 2.0


def doubled(dy_NO):
    return SCALE * dy_NO / 2


def my_backward(dy_NO, cache):
    # a comment that is kept
    u_NR, W0_IO, A_IR, B_RS, C_SO, alpha, keep_NO = cache
    dropped = doubled(dy_NO) if keep_NO is None else keep_NO * doubled(dy_NO)
    utg = u_NR.T @ (dropped @ C_SO.T)
    dx = dy_NO @ W0_IO.T + alpha * (dropped @ C_SO.T @ B_RS.T) @ A_IR.T
    return {"x": dx, "B": alpha * utg, "alpha": np.sum(B_RS * utg)}


def test_a_right_answer_is_kept_with_what_it_needs_and_used_in_place_of_the_worked_one(folder, capsys):
    start_keeping(folder / "mine.py")
    check("02", backward=my_backward)
    assert "Kept in mine.py, for later notebooks." in capsys.readouterr().out
    text = (folder / "mine.py").read_text()
    assert text.startswith(HEAD)
    assert "import numpy as np\n" in text
    assert "SCALE = 2.0" in text
    assert "# a comment that is kept" in text
    kept = mine().my_backward
    assert kept.__module__ == "mine"
    check("02", backward=kept)
    assert capsys.readouterr().out.count("right") == 1


def test_a_wrong_answer_is_not_kept_and_the_last_right_one_is(folder, capsys):
    def backward(dy_NO, cache):
        return my_backward(dy_NO, cache)

    path = folder / "mine.py"
    start_keeping(path)
    with pytest.raises(AssertionError):
        check("02", backward=lambda dy, cache: {"x": dy, "B": dy, "alpha": dy})
    assert path.read_text() == HEAD
    check("02", backward=my_backward)
    once = path.read_text()
    check("06", trained=lambda matrices, R: sum(R * R + 1 for _ in matrices))
    assert "only a function written with `def`" in capsys.readouterr().out
    check("02", backward=backward)
    text = path.read_text()
    assert text != once
    assert text.count("# --- my_backward, notebook 02 ---") == 1
    assert text.endswith("\nmy_backward = backward\n# --- end of my_backward ---\n")


def test_what_is_missing_the_worked_solution_stands_in_for_and_says_so(folder, capsys):
    start_keeping(folder / "mine.py")
    file = mine()
    assert file.my_check is worked("my_check")
    assert capsys.readouterr().out == (
        "mine.py has no my_check yet (notebook 03): the worked solution stands in for it.\n"
    )
    with pytest.raises(AttributeError, match="'my_own'"):
        stand_in("my_own")
    with pytest.raises(ImportError):
        exec("from mine import my_own")


def my_gelu_dx(dy_NF, x_NF):
    return dy_NF * (ndtr(x_NF) + x_NF * np.exp(-x_NF * x_NF / 2) / np.sqrt(2 * np.pi))


table = np.ones(3)


def reads_an_array(matrices, R):
    return sum(R * R + int(table[0]) for _ in matrices)


def test_what_does_not_say_where_it_is_from_is_found(folder, capsys):
    start_keeping(folder / "mine.py")
    check("07", gelu=my_gelu_dx)
    assert "from scipy.special import ndtr\n" in (folder / "mine.py").read_text()
    check("07", gelu=mine().my_gelu_dx)


def test_an_answer_that_cannot_stand_alone_is_right_and_not_kept(folder):
    def inside(matrices, R):
        return one + sum(R * R for _ in matrices)

    one = 1
    path = folder / "mine.py"
    start_keeping(path)
    assert "reads table, of type ndarray" in keep(path, "06", "trained", reads_an_array)
    assert "'one' of the function around it" in keep(path, "06", "trained", inside)
    assert keep(path, "06", "ratio", reads_an_array) == ""
    assert path.read_text() == HEAD


def test_every_kept_answer_has_the_name_of_its_notebook_and_a_later_one_uses_it():
    books = {path.name[:2]: nbformat.read(path, as_version=4) for path in solved()}
    for called, (number, name) in FOLLOWED.items():
        assert name in exercises(number)
        (cell,) = (cell for cell in books[number].cells if cell.id == f"{number}-{name}")
        assert re.search(rf"^def {called}\(", cell.source, re.M)
    imported = {}
    for number, book in books.items():
        text = "\n".join(cell.source for cell in book.cells if cell.cell_type == "code")
        for match in re.finditer(r"^from mine import (?:\(([^)]*)\)|(.*))$", text, re.M):
            for called in re.findall(r"\w+", match.group(1) or match.group(2)):
                assert FOLLOWED[called][0] < number, f"{called} is not written before {number}"
                imported[called] = number
    assert set(imported) == set(FOLLOWED)


# --- an encoder with their gradients -----------------------------------------------------------------

SMALL = EncoderConfig(features=3, width=8, layers=2, heads=2, hidden=6, time=4, classes=3)


def run(dtype=np.float32, steps=3):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((8 * steps, 4, 3)).astype(dtype), rng.integers(0, 3, 8 * steps)
    model = attach(init_encoder(SMALL, 0, dtype), AdapterConfig(rank=2))
    return train(by_hand, model, x, y, TrainConfig(epochs=1, batch_size=8, lr=0.1))


def test_training_with_a_students_gradients_goes_the_librarys_way_and_calls_nothing_else():
    model, history = run()
    with by_mine(**MINE) as calls:
        mine_model, mine_history = run()
    assert set(calls) == set(PIECES)
    assert calls["backward"] == 3 * 4
    np.testing.assert_allclose(mine_history.loss, history.loss, rtol=1e-5)
    for name in model.trained:
        assert mine_model.params[name].dtype == model.params[name].dtype == np.float32
    # and afterwards everything is as it was
    again = run()[1]
    assert again.loss == history.loss


@pytest.mark.parametrize("name", PIECES)
def test_a_wrong_piece_spoils_the_run_it_is_part_of(name):
    def wrong(*arguments):
        found = MINE[name](*arguments)
        return {k: np.flip(g) for k, g in found.items()} if isinstance(found, dict) else np.flip(found)

    loss = run()[1].loss
    with by_mine(**{name: wrong}):
        assert np.abs(np.subtract(run()[1].loss, loss)).max() > 1e-4


def test_a_piece_that_there_is_not_is_an_input_error():
    with pytest.raises(InputError, match="no piece 'softmax'; there are backward, dx"), by_mine(softmax=print):
        pass
