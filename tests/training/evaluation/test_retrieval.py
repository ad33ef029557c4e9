import numpy as np
import pytest
from drrgen_training.evaluation.retrieval import find_ranks, measure_retrieval

from drrgen.errors import InputError

RANDOM = np.random.default_rng(0)


def make_unit(n: int, e: int = 8) -> np.ndarray:
    x = RANDOM.normal(size=(n, e))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_perfect_embeddings_find_their_match_first() -> None:
    x, key = make_unit(50), np.arange(50)
    found = measure_retrieval(x, x, query_key=key, gallery_key=key)
    assert found.recall == {1: 1.0, 5: 1.0, 10: 1.0} and found.median_rank == 1
    assert found.chance == pytest.approx({1: 0.02, 5: 0.1, 10: 0.2})
    assert found.chance_rank == 25.5 and found.reciprocal == 1


def test_random_embeddings_do_as_chance_says() -> None:
    """With one match and with four matches of each query."""
    for copies in (1, 4):
        key = np.repeat(np.arange(100), copies)
        rounds = [
            measure_retrieval(make_unit(len(key)), make_unit(len(key)), query_key=key, gallery_key=key)
            for _ in range(12)
        ]  # fmt: skip
        for name, chance in (("recall", "chance"),):
            mean = np.mean([getattr(r, name)[10] for r in rounds])
            assert mean == pytest.approx(getattr(rounds[0], chance)[10], rel=0.2)
        mean = np.mean([r.reciprocal for r in rounds])
        assert mean == pytest.approx(rounds[0].chance_reciprocal, rel=0.2)


def test_ranks_are_those_of_sorting_by_hand() -> None:
    scores = np.array([[0.9, 0.5, 0.7], [0.1, 0.2, 0.3], [0.5, 0.5, 0.5]])
    key = np.arange(3)
    ranks = find_ranks(np.eye(3), scores.T, key, key)
    assert ranks.tolist() == [1, 2, 2]  # the third is level with both: the middle of three


def test_ties_gain_nothing() -> None:
    """All embeddings alike: what chance gives, not first place."""
    x, key = np.ones((21, 4)), np.arange(21)
    found = measure_retrieval(x, x, query_key=key, gallery_key=key, ks=(5,))
    assert found.median_rank == 11 and found.recall[5] == 0


def test_a_query_without_a_match_is_told() -> None:
    with pytest.raises(InputError, match="1 of 2 queries have no match"):
        find_ranks(np.eye(2), np.eye(2), np.array([0, 5]), np.array([0, 1]))
