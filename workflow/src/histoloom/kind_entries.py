"""What an entry of `histoloom.kinds` says: typed facts that the plan reads; the standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal


@dataclass(frozen=True)
class Memory:
    """Memory and time of a job by the size of its inputs, without the overhead of a cluster job."""

    base_mb: float  # before any input is read (imports)
    picture_mb: float = 0.0  # per MB of JPEG or PNG: they are decoded whole, and an H&E slide shrinks 60-fold in a JPEG
    pictures_at_once: int | None = field(default=None, kw_only=True)  # open at a time; None: all
    file_mb: float = 0.0  # per MB of any other input
    base_minutes: float = 20.0  # of the time limit, for a machine several times slower than the measured one
    minutes_per_mb: float = 0.0
    typical_mb: float = 10.0  # of pictures and of others, where files do not exist yet


LIGHT = Memory(350, file_mb=4)


@dataclass(frozen=True)
class Kind:
    """What all kinds have: the class or function that serves it, as ``module:name``."""

    cls: str


@dataclass(frozen=True)
class SourceKind(Kind):
    """A reader of sections."""

    expression: bool = True  # has counts
    simulated: bool = False  # the workflow makes its raw files
    splits: bool = False  # publishes splits and gene lists
    memory: Memory | None = None  # of `read_section`; None: the rule's


@dataclass(frozen=True)
class ReferenceKind(Kind):
    """A reader of single-cell references; `simulated` shares the vocabulary of simulated sections."""

    simulated: bool = False


@dataclass(frozen=True)
class LabelsKind(Kind):
    """A method that gives abundances."""

    reads: Literal["counts", "table", "truth", "file"] = "counts"  # counts of a group, or a cohort's table
    gpu: int = 0
    threads_matter: bool = False  # for the result; their number is then part of the identity
    memory: Memory = LIGHT  # of `label_groups`

    @property
    def whole_cohort(self) -> bool:
        """Whether there is nothing to fit, so that one job labels a cohort."""
        return self.reads != "counts"


@dataclass(frozen=True)
class CellLabelsKind(Kind):
    """A method that gives each cell of a section a class."""

    reads: Literal["counts", "morphology"]  # what the label is a function of
    threads: int = 1  # that a job can use; their number changes no label
    memory: Memory = LIGHT  # of a job that labels a section


@dataclass(frozen=True)
class EncoderKind(Kind):
    """A frozen encoder."""

    reads: Literal["pixels", "counts"] = "pixels"
    weights: bool = True  # False: features are computed by a formula
    version: int = 1  # raised when features change; part of the card from 2 on, so that other encoders stay as they are
    gpu: int = 1  # how many a job can use
    baseline: str | None = None  # level of a linear model on it (see `LEVELS`); None: that of an encoder
    memory: Memory = LIGHT  # of a job that embeds a batch


class Need(StrEnum):
    """What a model takes, by name."""

    FEATURES = "features"
    PIXELS = "pixels"
    EXPRESSION = "expression"
    COORDINATES = "coordinates"
    GRAPH = "graph"


@dataclass(frozen=True)
class ModelKind(Kind):
    """A model."""

    targets: frozenset[str]  # kinds of target that it predicts
    needs: frozenset[Need] = frozenset()  # inputs that it takes
    job: Literal["experiment", "fold"] = "experiment"  # for all folds, or per fold and seed
    gpu: int = 0  # how many a training job can use
    stochastic: bool = False  # training seeds change it; others carry no ``seed_<s>`` layers
    version: int = 1  # raised by hand when results change, for params and identities
    baseline: str | None = None  # its level in the baseline comparison (see `LEVELS`); None: ``model``
    memory: Memory = LIGHT  # of a training job

    @property
    def predicting_gpu(self) -> int:
        """How many GPUs a prediction can use."""
        return self.gpu if Need.PIXELS in self.needs else 0


@dataclass(frozen=True)
class SplitKind(Kind):
    """A way to cut folds."""

    paired: bool = False  # in pairs, with a leak and without, compared with each other only


@dataclass(frozen=True)
class TargetKind(Kind):
    """What is predicted; `score` is the function that turns scored predictions into long rows, as ``module:name``."""

    score: str


@dataclass(frozen=True)
class CheckKind:
    """A check of labels, predictions or tiles by something else that is known."""

    module: str  # has ``inputs`` (files by role from the plan), ``score`` (long rows) and ``draw`` (the figure)
    against: str  # what it compares with, as the metrics rows say it
    chapter: str = "How good could it be"  # of the report that its figure is in
