"""What an entry of `histoloom.kinds` says: typed facts that the plan reads; the standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal


@dataclass(frozen=True)
class Memory:
    """Memory and time of a job by the size of its inputs, without the overhead of a cluster job.

    Attributes
    ----------
    base_mb
        Before any input is read (imports).
    picture_mb
        Per MB of JPEG or PNG: they are decoded whole, and an H&E slide shrinks 60-fold in a JPEG.
    pictures_at_once
        How many pictures are open at a time, the largest first; None: all of the job's.
    file_mb
        Per MB of any other input.
    base_minutes, minutes_per_mb
        Time limit, for a machine several times slower than the measured one.
    typical_mb
        Input (MB, of pictures and of others) where files do not exist yet.
    """

    base_mb: float
    picture_mb: float = 0.0
    pictures_at_once: int | None = field(default=None, kw_only=True)
    file_mb: float = 0.0
    base_minutes: float = 20.0
    minutes_per_mb: float = 0.0
    typical_mb: float = 10.0


LIGHT = Memory(350, file_mb=4)


@dataclass(frozen=True)
class Kind:
    """What all kinds have: the class or function that serves it, as ``module:name``."""

    cls: str


@dataclass(frozen=True)
class SourceKind(Kind):
    """A reader of sections.

    Attributes
    ----------
    expression
        Whether its sections have counts.
    simulated
        Whether the workflow makes its raw files.
    splits
        Whether it publishes splits and gene lists.
    memory
        Of `read_section`; None: the rule's.
    """

    expression: bool = True
    simulated: bool = False
    splits: bool = False
    memory: Memory | None = None


@dataclass(frozen=True)
class ReferenceKind(Kind):
    """A reader of single-cell references; `simulated` shares the vocabulary of simulated sections."""

    simulated: bool = False


@dataclass(frozen=True)
class LabelsKind(Kind):
    """A method that gives abundances.

    Attributes
    ----------
    reads
        Counts of a group of sections; or, for a whole cohort in one job, a published table, the simulation's truth or a
        file of the user.
    gpu
        How many GPUs a job can use.
    threads_matter
        Whether the number of threads changes the result; it is then part of the identity.
    memory
        Of `label_groups`.
    """

    reads: Literal["counts", "table", "truth", "file"] = "counts"
    gpu: int = 0
    threads_matter: bool = False
    memory: Memory = LIGHT

    @property
    def whole_cohort(self) -> bool:
        """Whether there is nothing to fit, so that one job labels a cohort."""
        return self.reads != "counts"


@dataclass(frozen=True)
class EncoderKind(Kind):
    """A frozen encoder.

    Attributes
    ----------
    reads
        Pixels of tiles or counts of observations.
    weights
        Whether it needs weights; features that are computed by a formula need none.
    gpu
        How many GPUs a job can use.
    baseline
        Level of a linear model on it (see `LEVELS`); None: that of an encoder.
    memory
        Of a job that embeds a batch.
    """

    reads: Literal["pixels", "counts"] = "pixels"
    weights: bool = True
    gpu: int = 1
    baseline: str | None = None
    memory: Memory = LIGHT


class Need(StrEnum):
    """What a model takes, by name."""

    FEATURES = "features"
    PIXELS = "pixels"
    EXPRESSION = "expression"
    COORDINATES = "coordinates"
    GRAPH = "graph"


@dataclass(frozen=True)
class ModelKind(Kind):
    """A model.

    Attributes
    ----------
    targets
        Kinds of target that it predicts.
    needs
        Inputs that it takes.
    job
        One training job for all folds, or a job (and a GPU) per fold and training seed.
    gpu
        How many GPUs a training job can use.
    stochastic
        Whether training seeds change it; predictions of others carry no ``seed_<s>`` layers.
    version
        Raised by hand when results change; params and identities both read it.
    baseline
        Its level in the baseline comparison (see `LEVELS`); None: ``model``.
    memory
        Of a training job.
    """

    targets: frozenset[str]
    needs: frozenset[Need] = frozenset()
    job: Literal["experiment", "fold"] = "experiment"
    gpu: int = 0
    stochastic: bool = False
    version: int = 1
    baseline: str | None = None
    memory: Memory = LIGHT


@dataclass(frozen=True)
class SplitKind(Kind):
    """A way to cut folds.

    Attributes
    ----------
    paired
        Whether its folds come in pairs, with a leak and without: they are compared with each other, and no evaluation.
    """

    paired: bool = False


@dataclass(frozen=True)
class TargetKind(Kind):
    """What is predicted; `score` is the function that turns scored predictions into long rows, as ``module:name``."""

    score: str


@dataclass(frozen=True)
class CheckKind:
    """A check of labels, predictions or tiles by something else that is known.

    Attributes
    ----------
    module
        Has ``inputs`` (files by role from the plan), ``score`` (long rows) and ``draw`` (the figure).
    against
        What it compares with, as the metrics rows say it.
    chapter
        Chapter of the report that its figure is in.
    """

    module: str
    against: str
    chapter: str = "How good could it be"
