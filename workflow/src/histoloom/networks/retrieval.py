"""Nearest keys by cosine similarity, and expression predicted from them."""

from __future__ import annotations

from math import isqrt
from typing import Literal

import torch
from torch.nn import functional as F

_GATHERED = 2**26
"""Most numbers of neighbours that are gathered at once: 256 MB of float32."""


def _top(values: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the k largest of each row and their columns, best first, as `torch.topk` does.

    The k largest lie in the k groups of columns with the largest maxima: only those are sorted.
    """
    n = values.shape[1]
    size = isqrt(n // k)  # of a group; the two sorts are then of equal length
    if size < 2:
        best, columns = values.topk(k, dim=1)
        return best, columns
    groups = n // size
    maxima = values[:, : groups * size].unflatten(1, (size, groups)).amax(1)
    chosen = maxima.topk(k, dim=1, sorted=False).indices
    members = torch.arange(0, groups * size, groups, device=values.device)
    rest = torch.arange(groups * size, n, device=values.device).expand(len(values), -1)
    columns = torch.cat([(chosen[:, :, None] + members).flatten(1), rest], 1)
    best, order = values.gather(1, columns).topk(k, dim=1)
    return best, columns.gather(1, order)


def find_neighbours(
    queries: torch.Tensor, keys: torch.Tensor, k: int, query_block: int = 512, key_block: int = 65536
) -> torch.Tensor:
    """Return the rows of the k keys most similar to each query, (n_queries, k), best first.

    The first k' columns are the answer for any k' < k, so one search serves all k. Memory is that of one block of
    similarities, in float32, on the device of the inputs.

    Parameters
    ----------
    queries, keys
        (n_queries, width) and (n_keys, width); normalised here.

    Raises
    ------
    ValueError
        If there are fewer keys than k.
    """
    if k > len(keys):
        raise ValueError(f"k = {k} of {len(keys)} keys")
    queries, keys = F.normalize(queries.float(), dim=1), F.normalize(keys.float(), dim=1)
    rows = []
    for query in queries.split(query_block):
        best, index = query.new_empty(len(query), 0), torch.empty(len(query), 0, dtype=torch.long, device=query.device)
        for start in range(0, len(keys), key_block):
            similarity = query @ keys[start : start + key_block].T
            values, columns = _top(similarity, min(k, similarity.shape[1]))
            best, index = torch.cat([best, values], 1), torch.cat([index, columns + start], 1)
            best, order = best.topk(min(k, best.shape[1]), dim=1)
            index = index.gather(1, order)
        rows.append(index)
    return torch.cat(rows) if rows else torch.empty(0, k, dtype=torch.long)


def distance_weights(queries: torch.Tensor, keys: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return BLEEP's weights (n_queries, k), each row summing to 1.

    exp(-(d_j - d_0 + 1)) with squared distances d of embeddings as they are, d_0 that of the key nearest by cosine; the
    exponent is shifted by its largest value, which cancels in the sum and cannot overflow.
    """
    block = max(1, _GATHERED // max(1, index.shape[1] * keys.shape[1]))
    parts = zip(index.split(block), queries.split(block), strict=True)
    distances = [((keys[rows] - query[:, None]) ** 2).sum(-1) for rows, query in parts]
    return F.softmax(-torch.cat(distances), dim=1)


def predict_from_neighbours(
    values: torch.Tensor,
    index: torch.Tensor,
    method: Literal["simple", "average", "weighted"] = "average",
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return values of neighbours combined, (n_queries, n_genes).

    Parameters
    ----------
    values
        (n_keys, n_genes) expression of the keys.
    index
        (n_queries, k) from `find_neighbours`.
    method
        ``simple``: the nearest key alone; ``average``: the mean of all k; ``weighted``: by ``weights``.
    """
    if method == "simple":
        return values[index[:, 0]]
    if method == "average":
        return F.embedding_bag(index, values, mode="mean")
    if weights is None:
        raise ValueError("weighted prediction needs weights")
    return F.embedding_bag(index, values, mode="sum", per_sample_weights=weights.to(values.dtype))
