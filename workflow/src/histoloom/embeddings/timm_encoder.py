"""Encoders that timm builds: vision transformers and conv nets, frozen."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

import histoloom.torch_compat  # noqa: F401 - before timm
from histoloom.embeddings.weights import file_hash, hash_state, load_strictly, read_state, resolve
from histoloom.errors import InputError

logger = logging.getLogger(__name__)


class TimmEncoder:
    """A frozen timm model with the card's transform and pooling.

    Parameters
    ----------
    model
        The timm model, weights loaded.
    card
        The full card.
    device
        Resolved device.
    batch_size
        Tiles per forward pass.
    upsample
        Whether tiles smaller than the card's input may be enlarged.
    weights_sha256
        Hash of the weights' content.
    """

    feature_names: list[str] | None = None

    def __init__(
        self,
        model: Any,
        card: Mapping[str, Any],
        *,
        device: str,
        batch_size: int,
        upsample: bool,
        weights_sha256: str,
        revision: str | None,
    ) -> None:
        import torch

        self.card, self.device, self.batch_size, self.upsample = card, device, batch_size, upsample
        self.weights_sha256: str | None = weights_sha256
        self.revision = revision
        self.chunk = batch_size
        on_gpu = device.startswith("cuda")
        # A CPU gains little from half precision and loses comparability.
        self.precision = str(card["dtype"]) if on_gpu else "float32"
        self.model = model.eval().requires_grad_(False).to(device)
        if on_gpu:
            self.model = self.model.to(memory_format=torch.channels_last)
        self._mean = torch.tensor(card["mean"], device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(card["std"], device=device).view(1, 3, 1, 1)

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any], *, threads: int, device: str) -> TimmEncoder:
        """Build from a full encoder entry; see `histoloom.embeddings.cards.full_spec`.

        Raises
        ------
        InputError
            If the architecture is unknown, the weights do not fit, or the device is absent.
        """
        import torch

        if threads > 0:
            torch.set_num_threads(threads)
        card = spec["card"]
        device = pick_device(device)
        path = resolve(spec)
        model = create_model(card, int(spec["seed"]))
        if path is None:
            digest, revision = hash_state(model.state_dict()), f"random-seed-{spec['seed']}"
        else:
            load_strictly(model, read_state(path, card), str(path))
            digest = file_hash(path)
            revision = card["revision"] if spec["weights"] == "hub" else "local"
        logger.info("%s: %s on %s, weights %s (%s)", card["name"], card["arch"], device, digest[:12], revision)
        return cls(
            model,
            card,
            device=device,
            batch_size=int(spec["batch_size"]),
            upsample=bool(spec["upsample"]),
            weights_sha256=digest,
            revision=revision,
        )

    @property
    def dim(self) -> int:
        """Length of the embedding, as the card says."""
        return int(self.card["dim"])

    def encode(self, tiles: npt.NDArray[np.uint8], um_per_px: float) -> npt.NDArray[np.float32]:
        """Return float32 (n, dim) for uint8 (n, h, w, 3) tiles; `um_per_px` is not used.

        Raises
        ------
        InputError
            If the tiles are smaller than the input and may not be enlarged, or the output is not of the card's dim.
        """
        import torch

        self._check_size(tiles.shape[1])
        out = []
        with torch.inference_mode():
            for start in range(0, len(tiles), self.batch_size):
                batch = torch.from_numpy(np.ascontiguousarray(tiles[start : start + self.batch_size]))
                images = self._transform(batch.to(self.device))
                with torch.autocast("cuda", dtype=getattr(torch, self.precision), enabled=self.precision != "float32"):
                    features = self._pooled(images)
                out.append(features.float().cpu().numpy())
        found = np.concatenate(out) if out else np.zeros((0, self.dim), np.float32)
        if found.shape[1] != self.dim:
            raise InputError(
                f"card {self.card['name']}",
                f"says dim {self.dim}, but the model gives {found.shape[1]}.",
                "mend dim, pooling or arch_kwargs of the card.",
            )
        return found

    def close(self) -> None:
        """Forget the model."""
        self.model = None

    def _check_size(self, size_px: int) -> None:
        wanted = self.card["input_px"]
        if wanted is not None and size_px < wanted and not self.upsample:
            raise InputError(
                f"encoder card {self.card['name']}",
                f"takes {wanted} px, the tiles have {size_px} px.",
                f"use a tile spec with size_px {wanted} or more, or set `upsample: true` on the encoder.",
            )

    def _transform(self, batch: Any) -> Any:
        """Return normalised float32 (n, 3, input, input) for uint8 (n, h, w, 3)."""
        import torch

        images = batch.permute(0, 3, 1, 2).float().div_(255)
        size = self.card["input_px"]
        if size is not None and tuple(images.shape[2:]) != (size, size):
            images = torch.nn.functional.interpolate(
                images, (size, size), mode=self.card["interpolation"], antialias=True, align_corners=False
            ).clamp_(0, 1)
        images = images.sub_(self._mean).div_(self._std)
        # NHWC bytes permuted are channels_last already; a CPU prefers the plain layout.
        return images if self.device.startswith("cuda") else images.contiguous()

    def _pooled(self, images: Any) -> Any:
        """Return (n, dim)."""
        import torch

        layer = self.card["layer"]
        if layer is None:
            features = self.model.forward_features(images)
        else:
            features = self.model.forward_intermediates(images, indices=[layer], intermediates_only=True)[0]
        if features.ndim == 4:
            return features.mean(dim=(2, 3))
        prefix = int(getattr(self.model, "num_prefix_tokens", 0))
        first, patches = features[:, 0], features[:, prefix:].mean(dim=1)
        pooling = self.card["pooling"]
        return {"cls": first, "mean": patches}[pooling] if pooling != "cls_mean" else torch.cat([first, patches], 1)


def create_model(card: Mapping[str, Any], seed: int) -> Any:
    """Build the card's architecture with seeded random weights; torch's global generator is left as it was.

    Raises
    ------
    InputError
        If timm does not know the architecture or an argument.
    """
    import timm
    import torch

    kwargs = dict(card["arch_kwargs"])
    named = {"mlp_layer": timm.layers, "act_layer": torch.nn, "norm_layer": torch.nn}
    try:
        for key, module in named.items():
            if isinstance(kwargs.get(key), str):
                kwargs[key] = getattr(module, kwargs[key])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return timm.create_model(card["arch"], pretrained=False, **kwargs)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise InputError(
            f"card {card['name']}",
            f"timm {timm.__version__} cannot build '{card['arch']}' ({error}).",
            "mend arch and arch_kwargs.",
        ) from error


def pick_device(device: str) -> str:
    """Return the device to use: ``"auto"`` is cuda where there is one.

    Raises
    ------
    InputError
        If a GPU is asked for by name and there is none.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device {device}", "torch sees no GPU.", "use device auto or cpu, or install torch for CUDA.")
    return device
