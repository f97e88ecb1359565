"""Labels: what each observation is said to hold, by deconvolution, from published tables or from ground truth."""

from histoloom.labels.gather import gather_labels
from histoloom.labels.group import label_group

__all__ = ["gather_labels", "label_group"]
