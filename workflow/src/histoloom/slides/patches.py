"""Published patches in place of a slide: ``patches/<id>.h5`` of HEST and HEST-bench, where the slide is not given.

The frame is the slide's own level 0. A tile that is one of the patches comes out as it is stored, to the byte; no other
tile can be read. Overviews are drawn from the patches.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from histoloom.errors import InputError
from histoloom.slides.base import Slide, UInt8

MAX_SHIFT_PX = 2.0
"""How far a patch's corner may lie from a tile's, level-0 px; corners are rounded to whole pixels."""

_REMEDY = "fetch it again, or give the section a reason in the sheet's 'exclude' column."
_BLOCK = 256


class PatchSlide(Slide):
    """Patches h5: img (N, P, P, 3) uint8 RGB, coords (N, 2) = top left corners, level-0 px, and barcode of each."""

    ready_made = True

    def __init__(self, path: Path) -> None:
        import h5py
        from scipy.spatial import cKDTree

        self.path, self.mpp = path, None
        try:
            self._file = h5py.File(path, "r")
            self.images, self.corners = self._file["img"], np.asarray(self._file["coords"], np.float64)
            self.barcodes = np.ravel(self._file["barcode"][()]) if "barcode" in self._file else np.empty(0, object)
        except (OSError, KeyError) as error:
            raise InputError(path, f"no readable patches h5 ({error}).", _REMEDY, code="patches-unreadable") from error
        shape, corners = self.images.shape, self.corners.shape
        if len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3 or corners != (shape[0], 2) or not shape[0]:
            problem = f"img {shape} and coords {corners} do not fit: (N, P, P, 3), (N, 2) expected."
            raise InputError(path, problem, _REMEDY, code="patches-dataset")
        self.patch_px = int(shape[1])
        self._tree = cKDTree(self.corners)
        # The file does not say how large a patch is on the slide; overviews draw each as wide as the way to the next.
        gaps = self._tree.query(self.corners, k=2)[0][:, 1] if shape[0] > 1 else np.array([self.patch_px])
        self._gap = max(1.0, float(np.median(gaps)))
        self.width, self.height = (int(v) for v in np.ceil(self.corners.max(axis=0) + 2 * self._gap))

    def ready_tile(self, x: float, y: float, side: float, size_px: int) -> UInt8:
        if size_px != self.patch_px:
            problem = f"holds patches of {self.patch_px} px; tiles of {size_px} px are asked for."
            remedy = f"set `size_px: {self.patch_px}` and `um_per_px: 0.5` in the tile spec."
            raise InputError(self.path, problem, remedy, code="patch-size")
        distance, index = self._tree.query((x - side / 2, y - side / 2), p=np.inf)
        if distance > MAX_SHIFT_PX:
            size = f"{distance:.0f} px off: tiles of {side:.0f} level-0 px are asked for"
            problem = f"the nearest patch of the tile around x={x:.0f}, y={y:.0f} is {size}."
            remedy = "use the tile spec of the patches, `um_per_px: 0.5`, for sections without a slide."
            raise InputError(self.path, problem, remedy, code="patch-not-there")
        return np.asarray(self.images[int(index)])

    def _read(self, x: int, y: int, w: int, h: int) -> UInt8:
        return self._draw((x, y), (w, h), 1.0)

    def thumbnail(self, max_px: int) -> UInt8:
        """Return the patches laid out on glass, (h, w, 3)."""
        scale = min(1.0, max_px / max(self.width, self.height))
        return self._draw((0, 0), self.reduced_size(max_px), scale)

    def _draw(self, origin: tuple[int, int], size: tuple[int, int], scale: float) -> UInt8:
        """Draw a part of the frame, of `size` (width, height) px, at a scale."""
        from PIL import Image

        canvas = Image.new("RGB", size, (255, 255, 255))
        side = max(1, round(self._gap * scale))
        places = np.rint((self.corners - np.asarray(origin)) * scale).astype(int)
        seen = np.flatnonzero(((places + side > 0) & (places < np.asarray(size))).all(axis=1))
        for start in range(0, len(seen), _BLOCK):
            # Block by block in the order of the file: one by one would read each chunk anew.
            part = seen[start : start + _BLOCK]
            for image, place in zip(self.images[part], places[part].tolist(), strict=True):
                canvas.paste(Image.fromarray(image).resize((side, side), Image.Resampling.BOX), tuple(place))
        return np.asarray(canvas)

    def close(self) -> None:
        self._file.close()
