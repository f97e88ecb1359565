"""ST-Net: DenseNet-121 with a linear regression head.

He et al., Nat. Biomed. Eng. 4 (2020) 827, doi:10.1038/s41551-020-0578-x, Methods; public code bryanhe/ST-Net.
"""

from __future__ import annotations

import torch
from timm.models.densenet import DenseNet
from torch import nn

import histoloom.torch_compat  # noqa: F401 - before timm

DENSENET121 = (6, 12, 24, 16)


def stnet(n_outputs: int, growth_rate: int = 32, block_config: tuple[int, ...] = DENSENET121) -> DenseNet:
    """Return the network; keys are torchvision's (``features.*``, ``classifier.*``).

    Parameters
    ----------
    growth_rate, block_config
        32 and (6, 12, 24, 16) are DenseNet-121; smaller ones are for tests and runs on a CPU.
    """
    return DenseNet(growth_rate=growth_rate, block_config=block_config, num_classes=n_outputs)


def set_output_to_mean(network: DenseNet, mean: torch.Tensor) -> None:
    """Start the head at the training mean (n_outputs,): weights 0, bias the mean, as the public code does."""
    with torch.no_grad():
        nn.init.zeros_(network.classifier.weight)
        network.classifier.bias.copy_(mean)


def stnet_loss(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the squared error summed over the batch and averaged over genes.

    The learning rate belongs to this sum: 1e-6 at a batch of 32 is 3.2e-5 for a mean over the batch.
    """
    return ((prediction - target) ** 2).sum() / target.shape[1]


def eight_symmetries(images: torch.Tensor) -> torch.Tensor:
    """Return the symmetries of square images (n, c, h, h) as (8, n, c, h, h).

    Order of the public code: horizontal flip off, on; within it vertical flip off, on; within it rotation by 90 degrees
    counter-clockwise off, on, applied as h(v(r(image))).
    """
    views = []
    for flip_x in (False, True):
        for flip_y in (False, True):
            for rotate in (False, True):
                view = torch.rot90(images, 1, (-2, -1)) if rotate else images
                view = view.flip(-2) if flip_y else view
                views.append(view.flip(-1) if flip_x else view)
    return torch.stack(views)
