"""Labels: what each observation is said to hold, by deconvolution, from published tables or from ground truth."""

from histoloom.labels.artefact import LabelTask
from histoloom.labels.gather import gather_labels
from histoloom.labels.group import label_group, label_groups

__all__ = ["LabelTask", "gather_labels", "label_group", "label_groups"]
