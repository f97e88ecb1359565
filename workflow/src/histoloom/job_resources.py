"""How much memory and time a job is asked for, where that follows its input: the profiles' defaults serve all others.

The numbers are upper envelopes of measured runs (benchmark files of the simulated demo and of real her2st sections, on
two CPU cores): every measured job fits into what its first attempt is given, with at least a fifth to spare
(`tests/unit/measured_jobs.tsv` keeps the measurements). What was not measured is marked as a guess. Needs that differ
between kinds of a source, encoder, label method or model are in `histoloom.kinds`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from histoloom.kind_entries import LIGHT, Memory

# What a scheduler counts besides the tool: the two workflow processes around a cluster job, 170 MB each, measured.
OVERHEAD_MB = 350
ROUND_MB = 100
MAX_GROWTH = 4
_PICTURES = frozenset({".jpg", ".jpeg", ".png"})
# Read region by region and one after the other: memory follows neither their size nor their number. A plain TIFF among
# them is decoded whole, so that the largest counts, up to a size. A guess.
_WHOLE_SLIDES = frozenset({".svs", ".ndpi", ".tif", ".tiff", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".dcm"})
_SLIDE_MB = 200

# By rule.
_LIGHT_RULES = ("thin_section", "gather_labels", "build_target", "make_folds", "audit_sections", "score_model")
NEEDS: Mapping[str, Memory] = {
    **dict.fromkeys((*_LIGHT_RULES, "run_check", "export_errors", "export_qupath"), LIGHT),
    "fetch_file": Memory(200, base_minutes=240),
    "simulate_section": Memory(1000),
    "read_section": Memory(450, picture_mb=80, file_mb=20, base_minutes=10, minutes_per_mb=0.5),
    "cut_tiles": Memory(350, picture_mb=170, file_mb=4, base_minutes=10, minutes_per_mb=0.5),
    "count_nuclei": Memory(350, picture_mb=170, file_mb=4, base_minutes=10, minutes_per_mb=0.5),
    "place_outlines": Memory(1500, file_mb=20, base_minutes=30, minutes_per_mb=0.5),  # a guess
    "draw_outlines": Memory(1500, picture_mb=100, file_mb=20, base_minutes=30, minutes_per_mb=0.5),  # a guess
    "import_embeddings": Memory(1500, file_mb=20, base_minutes=30, minutes_per_mb=0.5),  # a guess
    "embed_group": Memory(12000, picture_mb=50, file_mb=4, base_minutes=120, minutes_per_mb=9),  # a guess
    "build_reference": Memory(400, file_mb=40, base_minutes=60, minutes_per_mb=0.5),
    "predict_model": Memory(550, file_mb=4),
    "cluster_cells": Memory(2000, file_mb=8, base_minutes=60, minutes_per_mb=1),  # a guess
    "apply_model": Memory(500, file_mb=4),
    "report_model": Memory(950, picture_mb=60, pictures_at_once=1, file_mb=4),
    "export_spatialdata": Memory(1500, file_mb=20, base_minutes=30, minutes_per_mb=0.5),  # a guess
    # Measured on a toy only; genes of a real task are many times more.
    "select_panel": Memory(350, file_mb=20),
    "pack_tiles": Memory(350, picture_mb=170, file_mb=4, base_minutes=10, minutes_per_mb=0.5),
    "report_slide": Memory(700, file_mb=20),
    "write_viewer": Memory(700, file_mb=20),
}

# What a cell2location fit holds, MB: the program, a spot's gene in a training step, a posterior draw of a spot's type
# (several numbers, and their copies for the quantiles). Fitted to fits of 1,000 and 3,000 spots on a
# CPU; one of 8,000 came after and lay 3 % below.
_PROGRAM_MB, _DENSE_MB, _DRAW_MB = 750.0, 75e-6, 32e-6


def input_mb(
    paths: Iterable[str | Path], typical_mb: float, pictures_at_once: int | None = None
) -> tuple[float, float]:
    """Return the MB of pictures (of the largest, where few are open at once) and of other files.

    Where a file does not exist yet, as when a group's jobs are planned, a typical size counts.
    """
    pictures: list[float] = []
    others = slide = least = 0.0
    for path in paths:
        suffix = Path(path).suffix.lower()
        try:
            size = os.path.getsize(path) / 1e6
        except OSError:
            least = typical_mb / 2
            continue
        if suffix in _PICTURES:
            pictures.append(size)
        elif suffix in _WHOLE_SLIDES:
            slide = max(slide, min(size, _SLIDE_MB))
        else:
            others += size
    at_once = sum(sorted(pictures, reverse=True)[:pictures_at_once])
    return max(at_once, least), max(others + slide, least)


def growth(attempt: int) -> int:
    """Return by how much a later attempt asks for more: twice, three times, at most `MAX_GROWTH` times."""
    return min(max(attempt, 1), MAX_GROWTH)


def memory_mb(need: Memory, paths: Iterable[str | Path], attempt: int = 1) -> int:
    """Return the MB to ask for, with the overhead of a cluster job; only the tool's part grows with the attempt."""
    pictures, others = input_mb(paths, need.typical_mb, need.pictures_at_once)
    tool = need.base_mb + need.picture_mb * pictures + need.file_mb * others
    return round_up(tool * growth(attempt) + OVERHEAD_MB, ROUND_MB)


def runtime_minutes(need: Memory, paths: Iterable[str | Path], attempt: int = 1) -> int:
    size = sum(input_mb(paths, need.typical_mb))
    return round_up((need.base_minutes + need.minutes_per_mb * size) * growth(attempt), 5)


def round_up(value: float, step: int) -> int:
    return int(-(-value // step)) * step


def deconvolution_mb(n_obs: int, n_genes: int, n_types: int, posterior_samples: int = 1000) -> float:
    """Return the memory that a cell2location fit takes, MB; measured fits lay within a fifth of it.

    A step holds some eighteen dense matrices in single precision (counts, expectation, the likelihood's terms and
    their gradients); posterior samples are kept for quantiles, and with many types they outweigh the rest.
    """
    dense = _DENSE_MB * n_obs * n_genes
    posterior = _DRAW_MB * n_obs * n_types * posterior_samples
    return _PROGRAM_MB + dense + posterior


def mapping_mb(n_obs: int, n_cells: int, n_genes: int, mapped_cells: int = 0) -> float:
    """Return the memory that a fit to the reference's cells takes, MB.

    Counts of spots and cells are held dense a few times; Tangram maps cells onto spots as a dense matrix with its
    gradient and the optimiser's two.
    """
    return _PROGRAM_MB + 16e-6 * (n_obs + n_cells) * n_genes + 20e-6 * mapped_cells * n_obs


def advice_when_too_large(need_mb: float, granted_mb: float, n_obs: int, n_genes: int) -> tuple[str, str] | None:
    """Return what is wrong with a fit that needs more than is granted and what to do, or None if it fits."""
    granted = granted_mb - OVERHEAD_MB
    if need_mb <= granted:
        return None
    fewer = int(n_genes - 1.1 * (need_mb - granted) / (_DENSE_MB * n_obs))
    genes = f"fewer genes (`max_genes: {fewer // 100 * 100}`), " if fewer >= 500 else ""
    return (
        f"deconvolving {n_obs} spots x {n_genes} genes takes about {need_mb:.0f} MB, and {granted:.0f} MB are granted.",
        f"smaller groups (`group_by: section`), {genes}fewer `posterior_samples`, or more memory for rule label_groups "
        f"in the profile (`set-resources: label_groups: mem_mb: {round_up(1.2 * need_mb + OVERHEAD_MB, 500)}`).",
    )
