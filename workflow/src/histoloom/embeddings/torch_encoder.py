"""A frozen torch model that turns tiles into vectors: transform, precision, batches that fit, copies that overlap."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

import histoloom.torch_compat  # noqa: F401 - before timm
from histoloom.devices import find_batch_size
from histoloom.embeddings import weights
from histoloom.embeddings.architectures import conch_tower, conv_stem_swin, seeded
from histoloom.embeddings.cards import Encoder, EncoderSpec, Features, PixelEncoder, Scales
from histoloom.embeddings.tokens import token_block
from histoloom.errors import InputError
from histoloom.identity import sha256_file

logger = logging.getLogger(__name__)

CPU_BATCH = 32
MEMORY_SHARE = 0.8
"""Share of a GPU's memory that an automatic batch may take."""

COMPILE_FROM = 500_000
"""Tiles from which ``compile: auto`` compiles. A guess from timm's rates on an RTX 4090 (ViT-L/16 913 and 1,042
images/s, DenseNet-121 3,615 and 6,581): a minute of compiling is won back after 440,000 and 480,000 tiles."""


class FrozenModel(Encoder):
    """A torch model on a device, from the entry of its encoder; half precision on a GPU only."""

    def __init__(
        self, model: Any, spec: EncoderSpec, *, device: str, weights_sha256: str | None, revision: str | None
    ) -> None:
        self.card, self.device, self.weights_sha256, self.revision = spec.card, device, weights_sha256, revision
        self.on_gpu = device.startswith("cuda")
        # A CPU gains little from half precision and loses comparability.
        self.precision = str(self.card["dtype"]) if self.on_gpu else "float32"
        self.model = model.eval().requires_grad_(False).to(device)

    @property
    def dim(self) -> int:
        return int(self.card["dim"])

    def close(self) -> None:
        self.model = None


class TimmEncoder(FrozenModel, PixelEncoder):
    """A frozen timm model with its card's transform and pooling.

    Batches are padded to one shape where torch.compile is used. Where cells are wanted by their tokens
    (`histoloom.embeddings.tokens`), ``tokens`` in mode ``exact`` gives the mean of the k tokens in a tile's middle, in
    mode ``shared`` all patch tokens, one after another.
    """

    def __init__(self, model: Any, spec: EncoderSpec, **facts: Any) -> None:
        import torch

        device = facts["device"]
        if device.startswith("cuda"):
            # One process, one GPU: whatever names no device means this one.
            torch.cuda.set_device(torch.device(device).index or 0)
        super().__init__(model, spec, **facts)
        self.upsample, self.tokens = spec.upsample, spec.tokens
        self.token_dim, self.token_grid = self._token_shape(model) if spec.tokens else (0, 0)
        # Tiles travel on a stream of their own: on the one that computes they would wait for the batch before.
        self._uploads: Any = torch.cuda.Stream(device) if self.on_gpu else None
        if self.on_gpu:
            # Conv nets run on NHWC there; of a transformer only the patch embedding changes.
            self.model = self.model.to(memory_format=torch.channels_last)
        self._mean, self._std = (
            torch.tensor(self.card[key], device=device).view(1, 3, 1, 1) for key in ("mean", "std")
        )
        self.compiled = _compiles(spec.compile, device, spec.tiles_in_job)
        self._forward: Callable[[Any], Any] = torch.compile(self._pooled) if self.compiled else self._pooled
        automatic = not isinstance(spec.batch_size, int)
        self.batch_size = self._fitting_batch(spec.tiles_spec.size_px) if automatic else int(spec.batch_size)

    @classmethod
    def build(cls, card: Mapping[str, Any], seed: int) -> Any:
        """Return the card's architecture with seeded random weights."""
        import timm

        return seeded(card, seed, lambda kwargs: timm.create_model(card["arch"], pretrained=False, **kwargs))

    def _pooled(self, images: Any) -> Any:
        if not self.tokens:
            return self.pool(self.model, self.card, images)
        patches = patch_tokens(self.model, self.model.forward_features(images))
        if self.tokens["mode"] == "shared":
            return patches.flatten(1)
        block = token_block(np.zeros((1, 2)), 1.0, self.token_grid, int(self.tokens["k"]))[0]
        return patches[:, block.tolist()].float().mean(dim=1)

    @classmethod
    def pool(cls, model: Any, card: Mapping[str, Any], images: Any) -> Any:
        """Return (n, dim) of normalised (n, 3, h, w) by a built model and the card's layer and pooling."""
        import torch

        layer = card["layer"]
        if layer is None:
            features = model.forward_features(images)
        else:
            features = model.forward_intermediates(images, indices=[layer], intermediates_only=True)[0]
        if features.ndim == 4:
            # Swin keeps its channels last.
            return features.mean(dim=(1, 2) if getattr(model, "output_fmt", "") == "NHWC" else (2, 3))
        first, patches = features[:, 0], patch_tokens(model, features).mean(dim=1)
        pooling = card["pooling"]
        return {"cls": first, "mean": patches}[pooling] if pooling != "cls_mean" else torch.cat([first, patches], 1)

    def _token_shape(self, model: Any) -> tuple[int, int]:
        """Return length and number along a side of the patch tokens."""
        grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
        if grid is None or not hasattr(model, "num_prefix_tokens"):
            where, remedy = f"encoder card {self.card['name']}", "use a vision transformer."
            raise InputError(where, "has no patch tokens.", remedy, code="encoder-no-tokens")
        return int(model.num_features), int(grid[0])

    @classmethod
    def from_spec(cls, spec: EncoderSpec, *, threads: int, device: str) -> Any:
        import torch

        if threads > 0:
            torch.set_num_threads(threads)
        card = spec.card
        _check_size(card, spec.tiles_spec.size_px, spec.upsample)
        model, digest, revision = cls.load(spec)
        logger.info("%s: %s on %s, weights %s (%s)", card["name"], card["arch"], device, digest[:12], revision)
        return cls(model, spec, device=device, weights_sha256=digest, revision=revision)

    @classmethod
    def load(cls, spec: EncoderSpec) -> tuple[Any, str, str]:
        """Return the model on the CPU with its weights, their sha256, and where they are from."""
        card = spec.card
        path = weights.resolve(spec)
        model = cls.build(card, spec.seed)
        if path is None:
            return model, weights.hash_state(model.state_dict()), f"random-seed-{spec.seed}"
        # Strictly but for positions that the card allows to be resampled.
        trunk, how = getattr(model, "trunk", model), card["checkpoint"].get("positions") or "strict"
        prefix = 0 if getattr(trunk, "no_embed_class", False) else int(getattr(trunk, "num_prefix_tokens", 0))
        state = weights.resize_positions(weights.read_state(path, card), model.state_dict(), prefix, how)
        weights.load_strictly(model, state, str(path))
        revision = weights.resolved_revision(card, path) if spec.weights == "hub" else "local"
        return model, sha256_file(path), revision

    @property
    def dim(self) -> int:
        """Length of the embedding, or of a token."""
        return self.token_dim if self.tokens else super().dim

    def submit(self, tiles: npt.NDArray[np.uint8], um_per_px: Scales) -> Callable[[], Features]:
        """Start encoding (`histoloom.embeddings.cards`); a GPU copies during the arithmetic of other batches."""
        import torch

        if tiles.dtype != np.uint8 or tiles.ndim != 4 or tiles.shape[3] != 3:
            problem = f"takes uint8 (n, h, w, 3) tiles, got {tiles.dtype} {tiles.shape}."
            remedy = "make the slide 8-bit RGB."
            raise InputError(f"encoder card {self.card['name']}", problem, remedy, code="encoder-tiles-type")
        _check_size(self.card, tiles.shape[1], self.upsample)
        if len(tiles) == 0:
            return lambda: np.zeros((0, self.dim), np.float32)
        with torch.inference_mode():
            features = torch.cat(self._in_batches(torch.from_numpy(np.ascontiguousarray(tiles))))
            shared = self.tokens is not None and self.tokens["mode"] == "shared"
            if features.shape[1] != self.dim * (self.token_grid**2 if shared else 1):
                problem = f"says dim {self.dim}, but the model gives {features.shape[1]}."
                remedy = "fix dim, pooling or arch_kwargs of the card."
                raise InputError(f"card {self.card['name']}", problem, remedy, code="encoder-dim")
            if not self.on_gpu:
                return lambda: features.numpy()
            host = torch.empty(features.shape, dtype=torch.float32, pin_memory=True)
            host.copy_(features, non_blocking=True)
            done = torch.cuda.Event()
            done.record(torch.cuda.current_stream(self.device))

        def wait() -> Features:
            done.synchronize()
            return np.asarray(host.numpy())

        return wait

    def allocate(self, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        """Return memory for tiles that this device copies from without waiting."""
        import torch

        return np.asarray(torch.empty(shape, dtype=torch.uint8, pin_memory=self.on_gpu).numpy())

    def _in_batches(self, tiles: Any) -> list[Any]:
        """Return features of uint8 (n, h, w, 3) in parts; a part that does not fit is halved and tried again."""
        import torch

        parts: list[Any] = []
        start = 0
        while start < len(tiles):
            part = tiles[start : start + self.batch_size]
            try:
                parts.append(self._run(part))
                start += len(part)
                continue
            except torch.OutOfMemoryError as error:
                if len(part) == 1:
                    problem = f"one tile does not fit the memory of {self.device}."
                    remedy = "use a smaller encoder, a larger GPU or `device: cpu`."
                    raise InputError(f"encoder card {self.card['name']}", problem, remedy, code="gpu-memory") from error
            # Outside the handler: there the failed pass's tensors are still alive.
            self.batch_size = max(1, len(part) // 2)
            logger.warning("%s: out of memory with %d tiles; going on with %d", self.device, len(part), self.batch_size)
            if self.on_gpu:
                torch.cuda.empty_cache()
        return parts

    def _run(self, part: Any) -> Any:
        """Return float32 (n, dim) on the device."""
        import torch

        n = len(part)
        if self.compiled and n < self.batch_size:
            # One shape: another would be compiled anew.
            part = torch.cat([part, part.new_zeros(self.batch_size - n, *part.shape[1:])])
        images = self._transform(self._upload(part))
        with torch.autocast("cuda", dtype=getattr(torch, self.precision), enabled=self.precision != "float32"):
            return self._forward(images)[:n].float()

    def _upload(self, part: Any) -> Any:
        """Return tiles on the device; a GPU copies them while it computes the batch before."""
        import torch

        if self._uploads is None:
            return part.to(self.device)
        with torch.cuda.stream(self._uploads):
            on_device = part.to(self.device, non_blocking=True)
        computes = torch.cuda.current_stream(self.device)
        computes.wait_stream(self._uploads)
        # Else the allocator could give its memory away while the arithmetic still reads it.
        on_device.record_stream(computes)
        return on_device

    def _transform(self, batch: Any) -> Any:
        """Return normalised float32 (n, 3, input, input) for uint8 (n, h, w, 3)."""
        import torch

        images = batch.permute(0, 3, 1, 2).float().div_(255)
        size = self.card["input_px"]
        if size is not None:
            resize = self.card.get("resize_px") or size
            if tuple(images.shape[2:]) != (resize, resize):
                images = torch.nn.functional.interpolate(
                    images, (resize, resize), mode=self.card["interpolation"], antialias=True, align_corners=False
                ).clamp_(0, 1)
            if resize > size:
                edge = (resize - size) // 2
                images = images[:, :, edge : edge + size, edge : edge + size]
        images = images.sub(self._mean).div_(self._std)
        # NHWC bytes permuted are channels_last already; a CPU prefers the plain layout.
        return images if self.on_gpu else images.contiguous()

    def _fitting_batch(self, tile_px: int) -> int:
        import torch

        if not self.on_gpu:
            return CPU_BATCH
        free, total = torch.cuda.mem_get_info(self.device)
        taken = torch.cuda.memory_reserved(self.device)
        budget = min(MEMORY_SHARE * total, free + taken)

        def used_by(size: int) -> float:
            torch.cuda.reset_peak_memory_stats(self.device)
            with torch.inference_mode():
                # Not compiled: each size would be.
                tiles = torch.zeros((size, tile_px, tile_px, 3), dtype=torch.uint8, device=self.device)
                with torch.autocast("cuda", dtype=getattr(torch, self.precision), enabled=self.precision != "float32"):
                    self._pooled(self._transform(tiles))
                torch.cuda.synchronize(self.device)
            peak = torch.cuda.max_memory_reserved(self.device)
            torch.cuda.empty_cache()
            return float(peak)

        size, card = find_batch_size(used_by, budget), self.card["name"]
        logger.info("%s: batches of %d tiles fit %.0f %% of %s", card, size, 100 * MEMORY_SHARE, self.device)
        return size


class ConchEncoder(TimmEncoder):
    """CONCH's image tower up to the vector before its projection into the space shared with text."""

    @classmethod
    def build(cls, card: Mapping[str, Any], seed: int) -> Any:
        """Return the tower; ``arch_kwargs`` are those of the trunk, ``args`` those of the pooler."""
        return seeded(card, seed, lambda kwargs: conch_tower(kwargs, **card["args"]))

    @classmethod
    def pool(cls, model: Any, card: Mapping[str, Any], images: Any) -> Any:
        """Return (n, dim): the tower pools itself."""
        return model(images)


class CTransPathEncoder(TimmEncoder):
    """Swin-T whose patches are cut by three convolutions."""

    @classmethod
    def build(cls, card: Mapping[str, Any], seed: int) -> Any:
        return seeded(card, seed, conv_stem_swin)


def patch_tokens(model: Any, tokens: Any) -> Any:
    """Return the tokens that stand for patches: class and register tokens lead and are dropped."""
    return tokens[:, int(getattr(model, "num_prefix_tokens", 0)) :]


def _compiles(asked: bool | str, device: str, tiles: int) -> bool:
    return device.startswith("cuda") and tiles >= COMPILE_FROM if asked == "auto" else bool(asked)


def _check_size(card: Mapping[str, Any], size_px: int, upsample: bool) -> None:
    wanted = card["input_px"]
    if wanted is not None and size_px < wanted and not upsample:
        problem = f"takes {wanted} px, the tiles have {size_px} px."
        remedy = f"use a tile spec with size_px {wanted} or more, or set `upsample: true` on the encoder."
        raise InputError(f"encoder card {card['name']}", problem, remedy, code="encoder-tiles-small")
