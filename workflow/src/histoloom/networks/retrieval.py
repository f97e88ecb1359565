"""Nearest keys by cosine similarity, and expression predicted from them."""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn import functional as F

_GATHERED = 2**26
"""Most numbers of neighbours that are gathered at once: 256 MB of float32."""


def find_neighbours(
    queries: torch.Tensor, keys: torch.Tensor, k: int, query_block: int = 4096, key_block: int = 65536
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
            values, columns = similarity.topk(min(k, similarity.shape[1]), dim=1)
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
    block = _rows_at_once(index, keys)
    parts = zip(index.split(block), queries.split(block), strict=True)
    distances = [((keys[rows] - query[:, None]) ** 2).sum(-1) for rows, query in parts]
    return F.softmax(-torch.cat(distances), dim=1)


def _rows_at_once(index: torch.Tensor, values: torch.Tensor) -> int:
    """Return for how many queries the rows of all k neighbours are gathered."""
    return max(1, _GATHERED // max(1, index.shape[1] * values.shape[1]))


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
    block = _rows_at_once(index, values)
    if method == "average":
        return torch.cat([values[rows].mean(1) for rows in index.split(block)])
    if weights is None:
        raise ValueError("weighted prediction needs weights")
    pairs = zip(index.split(block), weights.to(values.dtype).split(block), strict=True)
    return torch.cat([torch.einsum("qkg,qk->qg", values[rows], weight) for rows, weight in pairs])
