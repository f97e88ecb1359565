"""scGPT as an encoder of expression: a cell's counts to the state of its class token.

Cui et al., scGPT: toward building a foundation model for single-cell multi-omics using generative AI, Nat. Methods 21
(2024) 1470, doi:10.1038/s41592-024-02201-0. The forward pass of its published checkpoints (best_model.pt, args.json,
vocab.json) without its package: gene and value embeddings are added, a post-norm transformer runs over them, the class
token's state is scaled to length one. The original draws ties of bins and, above 1,200 tokens, genes at random; here
the draws follow from the seed and the cell's own key, so that neither order nor batch matters.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import histoloom.torch_compat  # noqa: F401
from histoloom.embeddings.cards import CountEncoder, EncoderSpec, Features
from histoloom.embeddings.torch_encoder import CPU_BATCH, FrozenModel
from histoloom.embeddings.weights import load_strictly, read_state
from histoloom.errors import InputError
from histoloom.genes import GeneMatcher
from histoloom.identity import sha256_file

logger = logging.getLogger(__name__)

MODEL, ARGS, VOCAB = "best_model.pt", "args.json", "vocab.json"
CLS = "<cls>"
_MOST = 512.0
_GPU_BATCH = 64


class ScGPT(FrozenModel, CountEncoder):
    """A frozen scGPT; ``vocab`` gives the token of each symbol and of ``<cls>``, ``settings`` is its args.json."""

    def __init__(
        self, model: Any, vocab: Mapping[str, int], settings: Mapping[str, Any], spec: EncoderSpec, **facts: Any
    ) -> None:
        super().__init__(model, spec, revision="local", **facts)
        if int(settings["embsize"]) != self.dim:
            problem = f"says dim {self.dim}, the model has {settings['embsize']}."
            raise InputError(f"card {self.card['name']}", problem, "fix dim.", code="encoder-dim")
        self.vocab, self.seed = vocab, spec.seed
        automatic = _GPU_BATCH if self.on_gpu else CPU_BATCH
        self.batch_size = spec.batch_size if isinstance(spec.batch_size, int) else automatic
        self._pad = vocab[settings["pad_token"]]
        self.pad_value = float(settings["pad_value"])
        args = {"bins": 51, "max_length": 1200, "min_shared_genes": 100, **self.card["args"]}
        self.bins, self.max_length = int(args["bins"]), int(args["max_length"])
        self.least = int(args["min_shared_genes"])

    @classmethod
    def from_spec(cls, spec: EncoderSpec, *, threads: int, device: str) -> ScGPT:
        """Build from a full encoder entry whose ``weights`` is the checkpoint's folder."""
        import torch

        if threads > 0:
            torch.set_num_threads(threads)
        card, folder = spec.card, Path(spec.weights)
        lost = [name for name in (MODEL, ARGS, VOCAB) if not (folder / name).is_file()]
        if lost:
            problem = f"lacks {', '.join(lost)}."
            remedy = f"give the folder of a published checkpoint with {MODEL}, {ARGS} and {VOCAB}."
            raise InputError(f"encoders.{spec.name}.weights: {folder}", problem, remedy, code="scgpt-folder")
        settings, vocab = _json(folder / ARGS), _json(folder / VOCAB)
        needed = {CLS, settings.get("pad_token")} - set(vocab)
        if needed or {"embsize", "nheads", "d_hid", "nlayers", "pad_value"} - set(settings):
            problem = f"{VOCAB} or {ARGS} lacks what a checkpoint has ({needed or 'sizes'})."
            raise InputError(folder, problem, "fetch it anew.", code="scgpt-settings")
        model = scgpt_model(settings, len(vocab))
        path = folder / MODEL
        load_strictly(model, rename(read_state(path, card)), str(path))
        digest = hashlib.sha256("".join(sha256_file(folder / n) for n in (MODEL, ARGS, VOCAB)).encode()).hexdigest()
        return cls(model, vocab, settings, spec, device=device, weights_sha256=digest)

    def encode_counts(self, counts: Any, genes: Sequence[str], keys: Sequence[str], matcher: GeneMatcher) -> Features:
        """Return float32 (cells, dim) of length one for raw counts, CSR (cells, genes).

        The draws of a cell follow from its key. Genes that the vocabulary lacks are left out; a cell without any of the
        others has the class token's state alone.
        """
        tokens = self._tokens(genes, matcher)
        shared = int((tokens >= 0).sum())
        if shared < self.least:
            problem = f"its vocabulary shares {shared} of {len(genes)} genes ({', '.join(map(str, genes[:5]))} ...)."
            remedy = (
                "set `genes: {match: ensembl}`, use gene symbols as var names, or lower the card's min_shared_genes."
            )
            raise InputError(f"card {self.card['name']}", problem, remedy, code="scgpt-genes")
        parts, empty = [np.zeros((0, self.dim), np.float32)], 0
        for start in range(0, len(keys), self.batch_size):
            named = enumerate(keys[start : start + self.batch_size], start)
            cells = [self._cell(counts[i], tokens, key) for i, key in named]
            empty += sum(len(genes_of) == 1 for genes_of, _ in cells)
            parts.append(self._forward(cells))
        logger.info("%d of %d genes are in the vocabulary, %d cells hold none of them", shared, len(genes), empty)
        return np.concatenate(parts)

    def _tokens(self, genes: Sequence[str], matcher: GeneMatcher) -> npt.NDArray[np.int64]:
        """Return each gene's token, -1 where it has none."""
        cells = matcher.keys(genes, "cells")
        vocabulary = matcher.keys(list(self.vocab), "vocabulary")
        token = dict(zip(vocabulary.keys, (self.vocab[name] for name in vocabulary.names), strict=True))
        tokens = np.full(len(genes), -1, np.int64)
        tokens[cells.kept] = [token.get(key, -1) for key in cells.keys]
        return tokens

    def _cell(self, row: Any, tokens: npt.NDArray[np.int64], key: str) -> tuple[npt.NDArray[np.int64], Features]:
        """Return tokens and binned values of a cell's genes, the class token first."""
        known = (row.data > 0) & (tokens[row.indices] >= 0)
        order = np.argsort(row.indices[known], kind="stable")
        of_gene, values = tokens[row.indices[known]][order], row.data[known][order].astype(np.float64)
        seed = hashlib.sha256(f"{self.seed}|{key}".encode()).digest()[:8]
        draw = np.random.default_rng(int.from_bytes(seed, "little"))
        binned = bin_values(values, self.bins, draw)
        if len(of_gene) > self.max_length - 1:
            chosen = draw.permutation(len(of_gene))[: self.max_length - 1]
            of_gene, binned = of_gene[chosen], binned[chosen]
        first = np.array([self.vocab[CLS]], np.int64)
        return np.concatenate([first, of_gene]), np.concatenate([[self.pad_value], binned]).astype(np.float32)

    def _forward(self, cells: list[tuple[npt.NDArray[np.int64], Features]]) -> Features:
        import torch

        longest = max(len(of_gene) for of_gene, _ in cells)
        genes = torch.full((len(cells), longest), self._pad, dtype=torch.int64)
        values = torch.full((len(cells), longest), self.pad_value)
        for i, (of_gene, binned) in enumerate(cells):
            genes[i, : len(of_gene)] = torch.from_numpy(of_gene)
            values[i, : len(of_gene)] = torch.from_numpy(binned)
        precision = getattr(torch, self.precision)
        with torch.inference_mode(), torch.autocast("cuda", dtype=precision, enabled=precision != torch.float32):
            states = self.model(genes.to(self.device), values.to(self.device), genes.to(self.device) == self._pad)
            return np.asarray(torch.nn.functional.normalize(states.float(), dim=1).cpu().numpy())


def bin_values(values: npt.NDArray[np.float64], bins: int, draw: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return the bin (of `bins`, zero's included) of positive counts by the cell's quantiles; ties are drawn."""
    if len(values) == 0:
        return values
    edges = np.quantile(values, np.linspace(0, 1, bins - 1))
    left, right = np.digitize(values, edges), np.digitize(values, edges, right=True)
    return np.asarray(np.ceil(draw.random(len(values)) * (right - left) + left))


def rename(state: Mapping[str, Any]) -> dict[str, Any]:
    """Rename flash attention's ``Wqkv`` to torch's ``in_proj_``."""
    return {key.replace("self_attn.Wqkv.", "self_attn.in_proj_"): value for key, value in state.items()}


def scgpt_model(settings: Mapping[str, Any], tokens: int) -> Any:
    """Return scGPT's encoder, random weights: genes, values, padding mask, (n, length) each, to (n, embsize)."""
    import torch
    from torch import nn

    width = int(settings["embsize"])

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.ModuleDict({"embedding": nn.Embedding(tokens, width), "enc_norm": nn.LayerNorm(width)})
            linear = {"linear1": nn.Linear(1, width), "linear2": nn.Linear(width, width)}
            self.value_encoder = nn.ModuleDict({**linear, "norm": nn.LayerNorm(width)})
            heads, hidden = int(settings["nheads"]), int(settings["d_hid"])
            layer = nn.TransformerEncoderLayer(width, heads, hidden, dropout=0.0, batch_first=True)
            layers = int(settings["nlayers"])
            self.transformer_encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

        def forward(self, genes: Any, values: Any, padding: Any) -> Any:
            names = self.encoder["enc_norm"](self.encoder["embedding"](genes))
            hidden = torch.relu(self.value_encoder["linear1"](values.unsqueeze(-1).clamp(max=_MOST)))
            tokens_in = names + self.value_encoder["norm"](self.value_encoder["linear2"](hidden))
            return self.transformer_encoder(tokens_in, src_key_padding_mask=padding)[:, 0]

    return Model()


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (ValueError, UnicodeDecodeError):
        content = None
    if not isinstance(content, dict):
        raise InputError(path, "is no JSON mapping.", "fetch the checkpoint's folder anew.", code="scgpt-json")
    return content
