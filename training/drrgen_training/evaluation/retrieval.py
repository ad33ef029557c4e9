"""How well embeddings find each other, query by query, each number with what chance would give.

Nothing here depends on the order of the rows, the size of a chunk or the device. Vectors are
rounded to whole multiples of a step so small (2**-26 for unit vectors) that it moves a cosine by
about 1e-8, less than float32 does; products and sums of whole numbers are exact in float64 in any
order. So equal vectors have equal scores, and a tie is a tie.

Ties are worth what they are. A rank counts equal scores as half before and half behind; what is
measured over the first K is its mean over all orders of equal scores. The matrix of scores is
made a chunk of queries at a time: memory is some 40 bytes times chunk times gallery.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from drrgen.errors import InputError

KS = (1, 5, 10)
_BITS = 26  # two factors of a product have 53 bits together, which float64 holds
_NORM = 1.4  # its square is less than 2: the sum of products of two such vectors has 53 bits
_CHUNK = 64  # larger ones spend their time on fresh memory


class Empty(StrEnum):
    """What becomes of items in which no label is positive, when labels are compared."""

    LEAVE_OUT = "leave_out"  # of the gallery; queries of that kind have no value (NaN)
    AGREE = "agree"  # two of them have all in common: 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Search:
    """Queries, and the gallery they look through by the product of vectors.

    Attributes:
        queries: Vectors of unit length, or any others.
        gallery: Likewise.
        exclude: Row of the gallery that each query must not find, such as itself; -1 for none.
        device: Where to compute; it needs float64.
        chunk: Queries compared with the gallery at once.

    Raises:
        InputError: There is nothing to compare, a vector is not finite, the sizes do not fit, an
            excluded row does not exist, or the device has no float64.
    """

    queries: Float[np.ndarray, "n _"] = field(repr=False)
    gallery: Float[np.ndarray, "m _"] = field(repr=False)
    exclude: Int64[np.ndarray, " n"] | None = field(repr=False, default=None)
    device: str | torch.device = "cpu"
    chunk: int = _CHUNK

    def __post_init__(self) -> None:
        for name, vectors in (("queries", self.queries), ("gallery", self.gallery)):
            bad = len(vectors) - int(np.isfinite(vectors).all(1).sum())
            if not vectors.size or bad:
                raise InputError(
                    f"{name}: {bad} of {len(vectors)} vectors are NaN or infinite, wanted at "
                    "least one vector and only finite ones; leave out rows without an embedding"
                )
        if self.queries.shape[1] != self.gallery.shape[1]:
            raise InputError(
                f"queries have {self.queries.shape[1]} dimensions and the gallery "
                f"{self.gallery.shape[1]}; embed both with encoders of one training"
            )
        if self.chunk < 1 or torch.device(self.device).type == "mps":
            raise InputError(
                f"got chunk {self.chunk} on device {self.device}, wanted a chunk of 1 or more on "
                "a device with float64, such as cpu or cuda"
            )
        if self.exclude is not None:
            check_rows("exclude", self.exclude, len(self.queries))
            if self.exclude.min() < -1 or self.exclude.max() >= len(self.gallery):
                raise InputError(
                    f"exclude names rows {self.exclude.min()} to {self.exclude.max()}, wanted "
                    f"rows of the gallery, 0 to {len(self.gallery) - 1}, or -1 for none"
                )

    @property
    def among(self) -> Int64[np.ndarray, " n"]:
        """How many items each query looks among."""
        every = np.full(len(self.queries), len(self.gallery))
        return every if self.exclude is None else every - (self.exclude >= 0)

    def narrow(self, kept: Bool[np.ndarray, " m"]) -> "Search":
        """Look through some of the gallery only."""
        exclude = None
        if self.exclude is not None:
            place = np.where(kept, np.cumsum(kept) - 1, -1)
            exclude = np.where(self.exclude >= 0, place[self.exclude], -1)
        return Search(queries=self.queries, gallery=self.gallery[kept], exclude=exclude,
                      device=self.device, chunk=self.chunk)  # fmt: skip

    def score(self) -> Iterator[tuple[slice, Float64[Tensor, "c m"]]]:
        """Score a chunk of queries at a time, in whole steps; -inf for what is excluded."""
        queries, _ = _round(self.queries)
        gallery = torch.from_numpy(_round(self.gallery)[0]).to(self.device).T
        for start in range(0, len(queries), self.chunk):
            part = slice(start, start + self.chunk)
            scores = torch.from_numpy(queries[part]).to(self.device) @ gallery
            if self.exclude is not None:
                rows = np.flatnonzero(self.exclude[part] >= 0)
                scores[rows, self.exclude[part][rows]] = -math.inf
            yield part, scores


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PerQuery:
    """A measure at several K, for each query, so that patients can be drawn anew.

    Attributes:
        ks: The K.
        values: By query and K; NaN for a query that it is not defined for.
        chance: The mean over all orders of the gallery: exact, not drawn.
    """

    ks: tuple[int, ...]
    values: Float64[np.ndarray, "n k"] = field(repr=False)
    chance: Float64[np.ndarray, "n k"] = field(repr=False)

    def mean(self) -> dict[int, float]:
        """Mean over the queries that have a value, by K; NaN if none has."""
        return _mean(self.ks, self.values)

    def mean_chance(self) -> dict[int, float]:
        """The same of chance."""
        return _mean(self.ks, self.chance)


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ranks:
    """Where each query found the best of its matches.

    Attributes:
        rank: From 1; half numbers where it is level with others.
        matches: How many there were to find.
        among: Among how many items.
    """

    rank: Float64[np.ndarray, " n"] = field(repr=False)
    matches: Int64[np.ndarray, " n"] = field(repr=False)
    among: Int64[np.ndarray, " n"] = field(repr=False)

    def recall(self, ks: Sequence[int] = KS) -> PerQuery:
        """Say of each query whether its match is among the first K: 1 or 0.

        Raises:
            InputError: A K is less than 1.
        """
        ks = check_ks(ks)
        chance = self._by_kind(lambda among, matches: _chance(among, matches, ks))
        return PerQuery(ks=ks, values=(self.rank[:, None] <= ks).astype(float), chance=chance)

    def summarize(self, ks: Sequence[int] = KS) -> Retrieval:
        """Take means and medians over the queries."""
        recall = self.recall(ks)
        return Retrieval(
            recall=recall.mean(),
            chance=recall.mean_chance(),
            median_rank=float(np.median(self.rank)),
            chance_rank=float(np.median((self.among + 1) / (self.matches + 1))),
            reciprocal=float((1 / self.rank).mean()),
            chance_reciprocal=float(self._by_kind(_chance_reciprocal).mean()),
            queries=len(self.rank),
            gallery=int(self.among.max()),
        )

    def _by_kind(self, make: Callable[[int, int], float | np.ndarray]) -> np.ndarray:
        """Make a number once for all queries that have as many matches among as many items."""
        kinds, place = np.unique(
            np.stack([self.among, self.matches], 1), axis=0, return_inverse=True
        )
        return np.array([make(among, matches) for among, matches in kinds.tolist()])[place]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Top:
    """What each query found first.

    Attributes:
        rows: Of the gallery, the best first; among equal scores the earlier row.
        scores: Their products, cosines of unit vectors.
    """

    rows: Int64[np.ndarray, "n k"] = field(repr=False)
    scores: Float64[np.ndarray, "n k"] = field(repr=False)


def measure_retrieval(
    queries: Float[np.ndarray, "n e"],
    gallery: Float[np.ndarray, "m e"],
    *,
    query_key: Int64[np.ndarray, " n"],
    gallery_key: Int64[np.ndarray, " m"],
    ks: Sequence[int] = KS,
) -> Retrieval:
    """Measure how queries find what has the same key; any item of the key is a hit.

    Args:
        queries: Unit vectors.
        gallery: Unit vectors.
        query_key: Number of the study, or of what else is to be found.
        gallery_key: Likewise.
        ks: Of Recall@K.

    Raises:
        InputError: As of ``Search``, or a query has no match in the gallery.
    """
    search = Search(queries=queries, gallery=gallery)
    return find_ranks(search, query_key=query_key, gallery_key=gallery_key).summarize(ks)


def pick_first(key: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " m"]:
    """Pick the first row of each key, such as one reconstruction of each scan, in their order.

    Example:
        >>> pick_first(np.array([7, 3, 7, 3, 9])).tolist()
        [0, 1, 4]
    """
    return np.sort(np.unique(key, return_index=True)[1])


def find_ranks(
    search: Search, *, query_key: Int64[np.ndarray, " n"], gallery_key: Int64[np.ndarray, " m"]
) -> Ranks:
    """Find the rank of the best match of each query; among equal scores it is the middle one.

    Other matches are not in its way: a query with three matches behind none has rank 1.

    Args:
        search: Who looks, and where.
        query_key: What each query is to find: any item of the same number. Row numbers for
            itself alone (exact), numbers of studies for any row of its study.
        gallery_key: Number of each item.

    Raises:
        InputError: A query has no match in the gallery, besides what it must not find.
    """
    matches = _count_matches(search, query_key, gallery_key)
    key = torch.from_numpy(gallery_key).to(search.device)
    ranks = np.empty(len(query_key))
    for part, scores in search.score():
        is_match = torch.from_numpy(query_key[part, None]).to(search.device) == key
        best = scores.masked_fill(~is_match, -math.inf).amax(1, keepdim=True)
        scores.masked_fill_(is_match, -math.inf)
        ahead = (scores > best).sum(1, dtype=torch.int32)
        level = (scores == best).sum(1, dtype=torch.int32)
        ranks[part] = (1 + ahead.double() + level / 2).cpu().numpy()
    return Ranks(rank=ranks, matches=matches, among=search.among)


def find_top(search: Search, k: int) -> Top:
    """Find the K best items of each query; among equal scores the earlier row comes first.

    Raises:
        InputError: A query has fewer than K items to look among, or K is less than 1.
    """
    if not 1 <= k <= search.among.min():
        raise InputError(
            f"got k {k}, wanted 1 to {search.among.min()}, as many as there are to find"
        )
    # Made at once: small results kept between large chunks would tear the heap to pieces.
    rows, found = np.empty((len(search.queries), k), np.int64), np.empty((len(search.queries), k))
    for part, scores in search.score():
        best, place = scores.topk(k, dim=1)
        level = (best[:, 1:] == best[:, :-1]).any(1) | ((scores >= best[:, -1:]).sum(1) > k)
        for i in level.nonzero()[:, 0].tolist():
            place[i] = _order_level(scores[i], best[i, -1])[:k]
        rows[part], found[part] = place.cpu().numpy(), best.cpu().numpy()
    step = _round(search.queries)[1] + _round(search.gallery)[1]
    return Top(rows=rows, scores=np.ldexp(found, step))


def _order_level(scores: Float64[Tensor, " m"], least: Float64[Tensor, ""]) -> Int64[Tensor, " l"]:
    """List the items that score no less, the best first; among equal scores the earlier row."""
    place = (scores >= least).nonzero()[:, 0]
    return place[scores[place].sort(descending=True, stable=True).indices]


def average_precision_at_k(
    search: Search,
    *,
    query_key: Int64[np.ndarray, " n"],
    gallery_key: Int64[np.ndarray, " m"],
    ks: Sequence[int] = KS,
) -> PerQuery:
    """Average precision of the first K, where an item of the same key is relevant.

    ``AP@K = sum over i <= K of P@i rel_i / min(K, R)``, with R relevant items in the gallery;
    its mean over queries is mAP@K. Among equal scores it is the mean over their orders.

    Args:
        search: Who looks, and where.
        query_key: As of ``find_ranks``.
        gallery_key: Likewise.
        ks: The K.

    Raises:
        InputError: As of ``find_ranks``, or a K is less than 1.

    Source:
        McSherry and Najork, Computing information retrieval performance measures efficiently in
        the presence of tied scores, ECIR 2008, section 3.
    """
    _count_matches(search, query_key, gallery_key)
    key = torch.from_numpy(gallery_key).to(search.device)

    def gain(part: slice) -> Tensor:
        own = torch.from_numpy(query_key[part, None]).to(search.device)
        return (own == key).double()

    return _average_precision(search, gain, check_ks(ks))


def label_average_precision_at_k(
    search: Search,
    *,
    query_labels: Int64[np.ndarray, "n l"],
    gallery_labels: Int64[np.ndarray, "m l"],
    ks: Sequence[int] = KS,
) -> PerQuery:
    """Average precision of the first K, where an item that shares a positive label is relevant.

    Args:
        search: Who looks, and where; it excludes nothing unless told.
        query_labels: 1 present; anything else is not shared.
        gallery_labels: Likewise.
        ks: The K.

    Returns:
        As of ``average_precision_at_k``; NaN for queries that share nothing with any item.

    Raises:
        InputError: A K is less than 1, or there are not as many labels as vectors.
    """
    check_rows("query_labels", query_labels, len(search.queries))
    check_rows("gallery_labels", gallery_labels, len(search.gallery))
    items = _to_float(gallery_labels == 1, search.device).T

    def gain(part: slice) -> Tensor:
        return (_to_float(query_labels[part] == 1, search.device) @ items > 0).double()

    return _average_precision(search, gain, check_ks(ks))


def label_jaccard_at_k(
    search: Search,
    *,
    query_labels: Int64[np.ndarray, "n l"],
    gallery_labels: Int64[np.ndarray, "m l"],
    ks: Sequence[int] = KS,
    empty: Empty = Empty.LEAVE_OUT,
) -> PerQuery:
    """Mean over the first K items of ``|A and B| / |A or B|`` of their positive labels.

    CT-CLIP and X2CT-CLIP publish it, with faults, under the name of MAP@K. A label that is
    unknown in one of two items does not count for these two; where nothing is left to count,
    0 (``LEAVE_OUT``) or 1 (``AGREE``). Among equal scores it is the mean over their orders.

    Args:
        search: Who looks, and where. If the queries stand in the gallery, ``exclude`` must
            name their own rows; otherwise each finds itself, and K = 1 says 1.
        query_labels: 1 present, 0 absent, -1 unknown.
        gallery_labels: Likewise.
        ks: The K; of a gallery of fewer items, all of them.
        empty: What becomes of items without a positive label.

    Raises:
        InputError: A K is less than 1, there are not as many labels as vectors, or no item has a
            positive label.
    """
    ks = check_ks(ks)
    check_rows("query_labels", query_labels, len(search.queries))
    check_rows("gallery_labels", gallery_labels, len(search.gallery))
    defined = np.ones(len(query_labels), bool)
    if empty == Empty.LEAVE_OUT:
        kept, defined = (gallery_labels == 1).any(1), (query_labels == 1).any(1)
        if not kept.any():
            raise InputError(
                f"none of {len(kept)} items of the gallery has a positive label, wanted some; "
                "give other labels, or let those without agree"
            )
        search, gallery_labels = search.narrow(kept), gallery_labels[kept]
    gain = _make_jaccard(search, query_labels, gallery_labels, float(empty == Empty.AGREE))
    among = search.among
    reach = np.minimum(np.array(ks), among[:, None])
    values, chance = np.empty(reach.shape), np.empty(reach.shape)
    for part, ties in _find_ties(search, gain, max(ks)):
        sums = np.cumsum(ties.gain / ties.size, 1)
        values[part] = np.take_along_axis(sums, np.maximum(reach[part], 1) - 1, 1) / np.maximum(
            reach[part], 1
        )
        chance[part] = (ties.total / np.maximum(among[part], 1))[:, None]
    is_nan = ~defined | (among == 0)
    values[is_nan], chance[is_nan] = np.nan, np.nan
    return PerQuery(ks=ks, values=values, chance=chance)


def check_rows(name: str, given: np.ndarray, wanted: int) -> None:
    """Refuse what has not one row for each vector.

    Raises:
        InputError: It has more or fewer.
    """
    if len(given) != wanted:
        raise InputError(f"{name} has {len(given)} rows, wanted {wanted}, one for each vector")


def check_ks(ks: Sequence[int]) -> tuple[int, ...]:
    """Refuse a K that is less than 1, and none at all.

    Raises:
        InputError: There is such a K.
    """
    if not ks or min(ks) < 1:
        raise InputError(f"ks: got {tuple(ks)}, wanted whole numbers from 1")
    return tuple(ks)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Ties:
    """The run of equal scores that each of the first places lies in.

    Attributes:
        start: Items before the run.
        size: Items in it.
        gain: Sum of their gains.
        before: Sum of the gains before it.
        total: Sum of all gains of the query.
    """

    start: Int64[np.ndarray, "c k"]
    size: Int64[np.ndarray, "c k"]
    gain: Float64[np.ndarray, "c k"]
    before: Float64[np.ndarray, "c k"]
    total: Float64[np.ndarray, " c"]


def _find_ties(
    search: Search, gain: Callable[[slice], Tensor], k: int
) -> Iterator[tuple[slice, _Ties]]:
    """Find the runs of the first K places of each query.

    Which items of the last run are among the first K is chance; so that run, and no other, is
    counted over the whole gallery.
    """
    for part, scores in search.score():
        gains = gain(part).masked_fill_(scores == -math.inf, 0)
        best, place = scores.topk(min(k, scores.shape[1]), dim=1)
        in_last = scores == best[:, -1:]
        last_size = in_last.sum(1).cpu().numpy()
        last_gain = (gains * in_last).sum(1).cpu().numpy()
        yield part, _make_ties(best.cpu().numpy(), gains.gather(1, place).cpu().numpy(),
                               last_size, last_gain, gains.sum(1).cpu().numpy())  # fmt: skip


def _make_ties(
    best: Float64[np.ndarray, "c k"],
    gains: Float64[np.ndarray, "c k"],
    last_size: Int64[np.ndarray, " c"],
    last_gain: Float64[np.ndarray, " c"],
    total: Float64[np.ndarray, " c"],
) -> _Ties:
    """Make the runs out of the sorted scores of the first places, and their gains."""
    c, k = best.shape
    is_new = np.ones((c, k + 1), bool)  # a run begins here; one begins behind the end
    is_new[:, 1:-1] = best[:, 1:] != best[:, :-1]
    places = np.arange(k + 1)
    start = np.maximum.accumulate(np.where(is_new, places, 0), 1)[:, :-1]
    end = np.minimum.accumulate(np.where(is_new, places, k)[:, ::-1], 1)[:, ::-1][:, 1:]
    sums = np.concatenate([np.zeros((c, 1)), np.cumsum(gains, 1)], 1)
    before = np.take_along_axis(sums, start, 1)
    is_last = end == k
    return _Ties(
        start=start,
        size=np.where(is_last, last_size[:, None], end - start),
        gain=np.where(is_last, last_gain[:, None], np.take_along_axis(sums, end, 1) - before),
        before=before,
        total=total,
    )


def _average_precision(
    search: Search, gain: Callable[[slice], Tensor], ks: tuple[int, ...]
) -> PerQuery:
    """Average precision of the first K of what has a gain of 1; chance is a tie of all."""
    among = search.among
    values = np.empty((len(among), len(ks)))
    chance = np.empty_like(values)
    for part, ties in _find_ties(search, gain, max(ks)):
        relevant = ties.total[:, None]
        none = np.zeros_like(ties.start)
        terms = {
            "values": _precision(ties.start, ties.size, ties.gain, ties.before),
            "chance": _precision(none, none + among[part, None], none + relevant, none + 0.0),
        }
        last = np.minimum(ks, ties.start.shape[1]) - 1
        most = np.where(relevant > 0, np.minimum(ks, relevant), np.nan)
        values[part] = np.cumsum(terms["values"], 1)[:, last] / most
        chance[part] = np.cumsum(terms["chance"], 1)[:, last] / most
    return PerQuery(ks=ks, values=values, chance=chance)


def _precision(
    start: Int64[np.ndarray, "c k"],
    size: Int64[np.ndarray, "c k"],
    relevant: Float64[np.ndarray, "c k"],
    before: Float64[np.ndarray, "c k"],
) -> Float64[np.ndarray, "c k"]:
    """Mean of ``P@i rel_i`` at each place i, over the orders of the run that it lies in.

    The item at the place is relevant by a chance of ``relevant / size``; then each earlier place
    of the run holds one of the others by a chance of ``(relevant - 1) / (size - 1)``.
    """
    i = np.arange(1, start.shape[1] + 1)
    share = np.where(i <= start + size, relevant / np.maximum(size, 1), 0)  # none behind the end
    others = (i - start - 1) * (relevant - 1) / np.maximum(size - 1, 1)
    return share * (before + 1 + others) / i


def _make_jaccard(
    search: Search,
    query_labels: Int64[np.ndarray, "n l"],
    gallery_labels: Int64[np.ndarray, "m l"],
    none: float,
) -> Callable[[slice], Tensor]:
    """Make what compares labels; in steps so small that sums over the gallery are exact."""
    steps = 2.0 ** (52 - len(gallery_labels).bit_length())
    there = _to_float(gallery_labels == 1, search.device).T
    known = _to_float(gallery_labels >= 0, search.device).T

    def gain(part: slice) -> Tensor:
        own = _to_float(query_labels[part] == 1, search.device)
        own_known = _to_float(query_labels[part] >= 0, search.device)
        both = own @ there
        either = (own @ known).add_(own_known @ there).sub_(both)
        is_none = either == 0
        shared = both.double().div_(either.clamp_(min=1)).masked_fill_(is_none, none)
        return shared.mul_(steps).round_().div_(steps)

    return gain


def _round(vectors: Float[np.ndarray, "n e"]) -> tuple[Float64[np.ndarray, "n e"], int]:
    """Round to whole steps; the step's power of two depends on the longest vector alone."""
    exact = vectors.astype(np.float64)
    longest = math.sqrt(float(np.einsum("ij,ij->i", exact, exact).max()))
    step = math.frexp(longest / _NORM)[1] - _BITS
    return np.rint(np.ldexp(exact, -step, out=exact), out=exact), step


def _to_float(is_so: Bool[np.ndarray, "n l"], device: str | torch.device) -> Tensor:
    """Put yes and no on the device as 1 and 0."""
    return torch.from_numpy(is_so).to(device).float()


def _count_matches(
    search: Search, query_key: Int64[np.ndarray, " n"], gallery_key: Int64[np.ndarray, " m"]
) -> Int64[np.ndarray, " n"]:
    """Count the items of each query's key that it may find, and refuse a query without any."""
    check_rows("query_key", query_key, len(search.queries))
    check_rows("gallery_key", gallery_key, len(search.gallery))
    keys, counts = np.unique(gallery_key, return_counts=True)
    place = np.minimum(np.searchsorted(keys, query_key), len(keys) - 1)
    found = np.where(keys[place] == query_key, counts[place], 0)
    if search.exclude is not None:
        found = found - ((search.exclude >= 0) & (gallery_key[search.exclude] == query_key))
    lost = int((found == 0).sum())
    if lost:
        raise InputError(
            f"{lost} of {len(found)} queries have no match in the gallery; leave them out"
        )
    return found


def _mean(ks: tuple[int, ...], values: Float64[np.ndarray, "n k"]) -> dict[int, float]:
    """Mean of each column over the rows that are not NaN."""
    kept = values[~np.isnan(values).any(1)]
    return dict(zip(ks, kept.mean(0).tolist() if len(kept) else [math.nan] * len(ks), strict=True))


def _chance(n: int, matches: int, ks: tuple[int, ...]) -> Float64[np.ndarray, " k"]:
    """Chance that one of some matches is among the first K of N in a random order, by K."""
    i = np.arange(min(max(ks), n))
    miss = np.cumprod(np.maximum(n - matches - i, 0) / (n - i))
    return 1 - miss[np.minimum(ks, n) - 1]


@functools.lru_cache
def _chance_reciprocal(n: int, matches: int) -> float:
    """Mean of one over the rank of the first of some matches among N in a random order."""
    before = np.arange(n - matches + 1)  # others that came first
    none_yet = np.cumprod(np.concatenate([[1.0], (n - matches - before[:-1]) / (n - before[:-1])]))
    return float((none_yet * matches / (n - before) / (before + 1)).sum())
