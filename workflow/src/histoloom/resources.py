"""How much memory and time a job is asked for: functions of the size of its input and of the attempt.

The numbers are upper envelopes of measured runs (benchmark files of the simulated demo and of real her2st sections, on
two CPU cores): every measured job fits into what its first attempt is given, with at least a fifth to spare
(`tests/unit/measured_jobs.tsv` keeps the measurements). What was not measured is marked as a guess.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

# What a scheduler counts besides the tool: the two workflow processes around a cluster job, 170 MB each, measured.
OVERHEAD_MB = 350
ROUND_MB = 100
MAX_GROWTH = 4
_PICTURES = frozenset({".jpg", ".jpeg", ".png"})
# Read region by region and one after the other: memory follows neither their size nor their number. A plain TIFF among
# them is decoded whole, so that the largest counts, up to a size. A guess.
_WHOLE_SLIDES = frozenset({".svs", ".ndpi", ".tif", ".tiff", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".dcm"})
_SLIDE_MB = 200


@dataclass(frozen=True)
class Demand:
    """What a kind of job needs, without overhead.

    Attributes
    ----------
    base_mb
        Memory before any input is read (imports), MB.
    picture_mb
        Memory per MB of JPEG or PNG: they are decoded whole, and an H&E slide shrinks 60-fold in a JPEG.
    pictures_at_once
        How many pictures are open at a time, the largest first; None: all of the job's.
    file_mb
        Memory per MB of any other input.
    base_minutes, minutes_per_mb
        Time limit, for a machine several times slower than the measured one.
    typical_mb
        Input (MB, pictures and others alike) to reckon with while files do not exist yet.
    """

    base_mb: float
    picture_mb: float = 0.0
    pictures_at_once: int | None = field(default=None, kw_only=True)
    file_mb: float = 0.0
    base_minutes: float = 20.0
    minutes_per_mb: float = 0.0
    typical_mb: float = 10.0


_LIGHT = Demand(350, file_mb=4)
DEMANDS: Mapping[str, Demand] = {
    "fetch_file": Demand(200, base_minutes=240),
    "simulate_section": Demand(1000, base_minutes=20),
    "simulate_reference": Demand(300),
    "read_section": Demand(450, picture_mb=80, file_mb=20, base_minutes=10, minutes_per_mb=0.5),
    # The package alone takes 300 MB, and a folder's size does not count its files: a guess.
    "read_section.spatialdata": Demand(2000, picture_mb=80, file_mb=20, base_minutes=20, minutes_per_mb=0.5),
    "cut_tiles": Demand(350, picture_mb=170, file_mb=4, base_minutes=10, minutes_per_mb=0.5),
    "count_nuclei": Demand(350, picture_mb=170, file_mb=4, base_minutes=10, minutes_per_mb=0.5),
    "thin_section": Demand(350, file_mb=4, base_minutes=10),
    # Sections are read one after the other, and a few at once.
    "embed_batch.stain_texture": Demand(700, picture_mb=60, file_mb=4, base_minutes=20, minutes_per_mb=1),
    # Same reader, same decoded slides, fewer features than stain_texture.
    "embed_batch.nuclear_density": Demand(700, picture_mb=60, file_mb=4, base_minutes=20, minutes_per_mb=1),
    "embed_batch.colour_only": Demand(700, picture_mb=60, file_mb=4, base_minutes=20, minutes_per_mb=1),
    "embed_batch.timm": Demand(6000, picture_mb=50, file_mb=4, base_minutes=60, minutes_per_mb=3),  # a guess
    "embed_pass.stain_texture": Demand(700, picture_mb=60, file_mb=4, base_minutes=20, minutes_per_mb=1),
    "embed_pass.timm": Demand(9000, picture_mb=50, file_mb=4, base_minutes=120, minutes_per_mb=9),  # a guess
    "embed_pass": Demand(12000, picture_mb=50, file_mb=4, base_minutes=120, minutes_per_mb=9),  # a guess
    "take_embedding": _LIGHT,
    "build_reference": Demand(400, file_mb=40, base_minutes=60, minutes_per_mb=0.5),
    # By file size, since the genes are not counted yet; `advice_when_too_large` looks again before the fit. Real fits
    # are 150 times longer than the demo's; they save and go on, so that three tries have six times this time.
    "label_group.cell2location": Demand(900, file_mb=120, base_minutes=240, minutes_per_mb=10),
    "label_group.nnls": Demand(350, file_mb=8, base_minutes=20, minutes_per_mb=0.2),
    "label_group.published": Demand(350, file_mb=4),
    "label_group.truth": Demand(350, file_mb=4),
    "gather_labels": _LIGHT,
    "build_target": _LIGHT,
    "make_folds": _LIGHT,
    "audit_sections": _LIGHT,
    "train_model": Demand(600, file_mb=20, base_minutes=30, minutes_per_mb=1),
    "train_model.mlp": Demand(1300, file_mb=20, base_minutes=60, minutes_per_mb=10),
    "predict_model": Demand(550, file_mb=4),
    "apply_model": Demand(500, file_mb=4),
    "score_model": _LIGHT,
    "run_check": _LIGHT,
    "score_leaks": _LIGHT,
    "show_leaks": _LIGHT,
    "write_tables": _LIGHT,
    "draw_experiment": _LIGHT,
    "draw_model": Demand(850, file_mb=4),
    "draw_check": _LIGHT,
    "draw_between": _LIGHT,
    "draw_attainable": _LIGHT,
    "draw_errors": Demand(950, picture_mb=60, pictures_at_once=1, file_mb=4),
    "export_errors": _LIGHT,
    "export_qupath": _LIGHT,
    # Measured on a toy only; genes of a real task are many times more.
    "select_panel": Demand(350, file_mb=20),
    "run_probe": Demand(450, file_mb=20, base_minutes=30, minutes_per_mb=1),
    "score_probe": _LIGHT,
    "write_probe_table": _LIGHT,
    "show_slide": Demand(700, file_mb=20),
    "draw_ablation": _LIGHT,
    "write_paper_table": _LIGHT,
    "list_exclusions": _LIGHT,
}


# What a cell2location fit holds, MB: the program, a spot's gene in a training step, a posterior draw of a spot's type
# (several numbers, and their copies for the quantiles). Fitted to fits of 1,000 and 3,000 spots on a
# CPU; one of 8,000 came after and lay 3 % below.
_PROGRAM_MB, _DENSE_MB, _DRAW_MB = 750.0, 75e-6, 32e-6

# For a rule that was not measured yet: a guess on the large side.
UNMEASURED = Demand(1500, picture_mb=100, file_mb=20, base_minutes=30, minutes_per_mb=0.5)


def demand(job: str) -> Demand:
    """Return what a kind of job needs; ``rule.kind`` falls back to ``rule``."""
    return DEMANDS.get(job) or DEMANDS.get(job.partition(".")[0]) or UNMEASURED


def input_mb(
    paths: Iterable[str | Path], typical_mb: float, pictures_at_once: int | None = None
) -> tuple[float, float]:
    """Return the MB of pictures (of the largest, where few are open at once) and of other files.

    Where a file does not exist yet, a typical size counts: the jobs of a group are planned before their inputs
    exist. A zip or a folder counts as what lies on disk.
    """
    shown: list[float] = []
    others = slide = 0.0
    missing = False
    for path in paths:
        try:
            size = os.path.getsize(path) / 1e6
        except OSError:
            missing = True
            continue
        suffix = Path(path).suffix.lower()
        if suffix in _PICTURES:
            shown.append(size)
        elif suffix in _WHOLE_SLIDES:
            slide = max(slide, min(size, _SLIDE_MB))
        else:
            others += size
    pictures = sum(sorted(shown, reverse=True)[:pictures_at_once])
    others += slide
    if missing:
        return max(pictures, typical_mb / 2), max(others, typical_mb / 2)
    return pictures, others


def growth(attempt: int) -> int:
    """Return by how much a later attempt asks for more: twice, three times, at most `MAX_GROWTH` times."""
    return min(max(attempt, 1), MAX_GROWTH)


def memory_mb(job: str, paths: Iterable[str | Path], attempt: int = 1) -> int:
    """Return the memory to ask for.

    Parameters
    ----------
    job
        A rule, or ``rule.kind`` where kinds differ (``label_group.nnls``).
    paths
        The job's inputs.
    attempt
        1 for the first try.

    Returns
    -------
    int
        MB, with the overhead of a cluster job; only the tool's part grows with the attempt.
    """
    need = demand(job)
    pictures, others = input_mb(paths, need.typical_mb, need.pictures_at_once)
    tool = need.base_mb + need.picture_mb * pictures + need.file_mb * others
    return round_up(tool * growth(attempt) + OVERHEAD_MB, ROUND_MB)


def runtime_minutes(job: str, paths: Iterable[str | Path], attempt: int = 1) -> int:
    """Return the time limit to ask for, in minutes; arguments as in `memory_mb`."""
    need = demand(job)
    size = sum(input_mb(paths, need.typical_mb))
    return round_up((need.base_minutes + need.minutes_per_mb * size) * growth(attempt), 5)


def round_up(value: float, step: int) -> int:
    """Return the next multiple of a step."""
    return int(-(-value // step)) * step


def deconvolution_mb(n_obs: int, n_genes: int, n_types: int, posterior_samples: int = 1000) -> float:
    """Return the memory that a cell2location fit takes, MB; measured fits lay within a fifth of it.

    A step holds some eighteen dense matrices in single precision (counts, expectation, the likelihood's terms and
    their gradients); posterior samples are kept for quantiles, and with many types they outweigh the rest.

    Parameters
    ----------
    n_obs, n_genes, n_types
        Spots and genes of the group after filtering, and cell types.
    posterior_samples
        Draws kept for each spot and type.
    """
    dense = _DENSE_MB * n_obs * n_genes
    posterior = _DRAW_MB * n_obs * n_types * posterior_samples
    return _PROGRAM_MB + dense + posterior


def advice_when_too_large(need_mb: float, granted_mb: float, n_obs: int, n_genes: int) -> tuple[str, str] | None:
    """Return what is wrong with a fit that will not fit and what to do about it, or None if it will.

    Parameters
    ----------
    need_mb
        Of `deconvolution_mb`.
    granted_mb
        What the job was given, with the overhead of a cluster job.
    n_obs, n_genes
        Of the fit.
    """
    granted = granted_mb - OVERHEAD_MB
    if need_mb <= granted:
        return None
    fewer = int(n_genes - 1.1 * (need_mb - granted) / (_DENSE_MB * n_obs))
    genes = f"fewer genes (`max_genes: {fewer // 100 * 100}`), " if fewer >= 500 else ""
    return (
        f"deconvolving {n_obs} spots x {n_genes} genes takes about {need_mb:.0f} MB, and {granted:.0f} MB are granted.",
        f"smaller groups (`group_by: section`), {genes}fewer `posterior_samples`, or more memory for rule label_group "
        f"in the profile (`set-resources: label_group: mem_mb: {round_up(1.2 * need_mb + OVERHEAD_MB, 500)}`).",
    )
