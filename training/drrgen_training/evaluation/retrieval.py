"""How well embeddings find each other, each number with what chance would give.

Ranks count equal scores as half before and half behind, so that ties are worth what they are.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64

from drrgen.errors import InputError

_CHUNK = 1024  # queries compared with the gallery at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieval:
    """How one modality finds another.

    Attributes:
        recall: Share of queries whose match is among the first K, by K.
        chance: The same for a random order, by K.
        median_rank: Rank of the match, from 1.
        chance_rank: The same for a random order.
        reciprocal: Mean of one over the rank.
        chance_reciprocal: The same for a random order.
        queries: How many.
        gallery: Among how many.
    """

    recall: dict[int, float]
    chance: dict[int, float]
    median_rank: float
    chance_rank: float
    reciprocal: float
    chance_reciprocal: float
    queries: int
    gallery: int


def measure_retrieval(
    queries: Float[np.ndarray, "n e"],
    gallery: Float[np.ndarray, "m e"],
    *,
    query_key: Int64[np.ndarray, " n"],
    gallery_key: Int64[np.ndarray, " m"],
    ks: Sequence[int] = (1, 5, 10),
) -> Retrieval:
    """Measure how queries find what has the same key; any item of the key is a hit.

    Args:
        queries: Unit vectors.
        gallery: Unit vectors.
        query_key: Number of the study, or of what else is to be found.
        gallery_key: Likewise.
        ks: Of Recall@K.

    Raises:
        InputError: A query has no match in the gallery.
    """
    ranks = find_ranks(queries, gallery, query_key, gallery_key)
    counts = (gallery_key[None] == np.unique(query_key)[:, None]).sum(1)
    by_key = dict(zip(np.unique(query_key).tolist(), counts.tolist(), strict=True))
    matches = np.array([by_key[key] for key in query_key.tolist()])
    n = len(gallery)
    return Retrieval(
        recall={k: float((ranks <= k).mean()) for k in ks},
        chance={k: float(np.mean([_chance(n, r, k) for r in matches.tolist()])) for k in ks},
        median_rank=float(np.median(ranks)),
        chance_rank=float(np.median((n + 1) / (matches + 1))),
        reciprocal=float((1 / ranks).mean()),
        chance_reciprocal=float(np.mean([_chance_reciprocal(n, r) for r in matches.tolist()])),
        queries=len(queries),
        gallery=n,
    )


def find_ranks(
    queries: Float[np.ndarray, "n e"],
    gallery: Float[np.ndarray, "m e"],
    query_key: Int64[np.ndarray, " n"],
    gallery_key: Int64[np.ndarray, " m"],
) -> Float[np.ndarray, " n"]:
    """Rank of the best match of each query, from 1; among equal scores it is the middle one.

    Raises:
        InputError: A query has no match in the gallery.
    """
    lost = ~np.isin(query_key, gallery_key)
    if lost.any():
        raise InputError(
            f"{int(lost.sum())} of {len(lost)} queries have no match in the gallery; leave them out"
        )
    ranks = np.empty(len(queries))
    for start in range(0, len(queries), _CHUNK):
        part = slice(start, start + _CHUNK)
        scores = queries[part] @ gallery.T
        is_match: Bool[np.ndarray, "c m"] = query_key[part, None] == gallery_key[None]
        best = np.where(is_match, scores, -np.inf).max(1, keepdims=True)
        others = ~is_match
        ahead = ((scores > best) & others).sum(1)
        level = ((scores == best) & others).sum(1)
        ranks[part] = 1 + ahead + level / 2
    return ranks


def _chance(n: int, matches: int, k: int) -> float:
    """Chance that one of some matches is among the first K of N in a random order."""
    miss = 1.0
    for i in range(min(k, n)):
        miss *= max(0.0, (n - matches - i) / (n - i))
    return 1 - miss


@functools.lru_cache
def _chance_reciprocal(n: int, matches: int) -> float:
    """Mean of one over the rank of the first of some matches among N in a random order."""
    mean, before = 0.0, 1.0  # chance that none of the matches came so far
    for rank in range(1, n - matches + 2):
        left = n - rank + 1
        mean += before * matches / left / rank
        before *= (left - matches) / left
    return mean
