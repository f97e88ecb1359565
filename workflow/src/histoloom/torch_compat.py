"""Make `import torchvision` work with a torch that lacks its compiled operators.

Import this before timm, scvi or cell2location, in every process. A CPU build of torch with a CUDA build of
torchvision fails with ``operator torchvision::nms does not exist``; declaring the two schemas is enough for everything
histoloom uses. With a matching torchvision nothing is changed.
"""

from __future__ import annotations

import sys
from typing import Any

_library: Any = None  # torch forgets the schemas when the Library object is collected


def ensure_torchvision() -> None:
    """Import torchvision, declaring the operators it misses."""
    global _library
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        import torch

        for name in [m for m in sys.modules if m == "torchvision" or m.startswith("torchvision.")]:
            del sys.modules[name]
        _library = torch.library.Library("torchvision", "DEF")
        _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision  # noqa: F401


ensure_torchvision()
