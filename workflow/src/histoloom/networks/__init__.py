"""Architectures of the papers' models as torch modules with the key names of the official checkpoints.

A module here holds layers and losses only: no data, no training. Each is equal to its authors' code on weights and
inputs made by a recipe (``tests/unit/test_networks_*.py``), to 1e-5 in float32.
"""

import histoloom.torch_compat  # noqa: F401 - before timm in every module of this package
