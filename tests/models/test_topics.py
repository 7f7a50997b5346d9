"""Topics: shares, leading columns and main topics by hand, whatever the scale of the factors."""

from __future__ import annotations

import numpy as np
import pytest

from factorlake.errors import ConfigError
from factorlake.models.topics import main_topic, topics_of

ROWS = np.array([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0], [0.0, 0.0, 0.0]], np.float32)
COLUMNS = np.array([[1.0, 0.0, 4.0], [3.0, 2.0, 0.0], [1.0, 2.0, 0.0], [3.0, 0.0, 0.0]], np.float32)


def test_topics_worked_by_hand() -> None:
    # Σ XYᵀ by topic: 2·8, 3·4, 1·4.
    first, second, third = topics_of(ROWS, COLUMNS, top=3)
    assert [topic.factor for topic in (first, second, third)] == [0, 1, 2]
    assert [topic.share for topic in (first, second, third)] == [16 / 32, 12 / 32, 4 / 32]
    # Equal ones by position; those with 0 are in no topic.
    assert first.columns == (1, 3, 0)
    assert first.weights == (1.0, 1.0, 1 / 3)
    assert second.columns == (1, 2)
    assert third.columns == (0,)
    assert len(topics_of(ROWS, COLUMNS, top=1)[0].columns) == 1


def test_the_main_topic_is_the_longest_part_of_a_row() -> None:
    # |y| is √20, √8 and 4: the first row's parts are 2·√20 and 4.
    assert main_topic(ROWS, COLUMNS).tolist() == [0, 1, -1]
    assert main_topic(np.array([[1.0, 0.0, 1.1]]), COLUMNS).tolist() == [0]
    assert main_topic(np.array([[1.0, 0.0, 1.2]]), COLUMNS).tolist() == [2]
    assert main_topic(np.zeros((0, 3)), COLUMNS).tolist() == []


def test_factors_stretched_on_one_side_and_shrunk_on_the_other_are_the_same_topics() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.exponential(1, (50, 6)), rng.exponential(1, (30, 6))
    stretch = rng.uniform(0.01, 100, 6)
    one, other = topics_of(x, y), topics_of(x * stretch, y / stretch)
    assert [topic.columns for topic in one] == [topic.columns for topic in other]
    np.testing.assert_allclose([t.share for t in one], [t.share for t in other], rtol=1e-12)
    assert sum(topic.share for topic in one) == pytest.approx(1, rel=1e-12)
    assert np.array_equal(main_topic(x, y), main_topic(x * stretch, y / stretch))


def test_factors_of_nothing_have_no_share() -> None:
    topics = topics_of(np.zeros((2, 2)), np.zeros((3, 2)))
    assert [(topic.share, topic.columns) for topic in topics] == [(0.0, ()), (0.0, ())]


def test_what_cannot_be_told_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        topics_of(ROWS, COLUMNS, top=0)
    for ask in (topics_of, main_topic):
        with pytest.raises(ConfigError, match="one model"):
            ask(ROWS, COLUMNS[:, :2])
