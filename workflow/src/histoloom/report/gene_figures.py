"""Figures of predicted expression, after figures 2 to 7 of the CMRCNet paper: one section, models next to its truth.

The paper's captions of figures 5 and 6 exchange colon and rectum; its figure 3 compares means and variances of all
genes, figure 4 orders both rows by the clustering of the truth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from histoloom.errors import InputError
from histoloom.metrics.scored import read_predictions
from histoloom.report.maps import labelled, median_section, positions
from histoloom.report.pages import number, spread_ratio
from histoloom.report.section_view import find_section, view_section
from histoloom.report.style import DIVERGING, colour, drawing, heading, note
from histoloom.stats import is_constant, pearson_cross, score_columns

Values = npt.NDArray[np.floating]
TOP = 50
MOST_MODELS = 6
"""Models that fit next to each other on a page."""
_TITLES = {"heg": "most expressed", "hvg": "most variable"}


@dataclass(frozen=True)
class SectionGenes:
    """One tested section: truth (n, genes), predictions by model, names of genes, centres (n, 2) in level-0 px."""

    fold: str
    cohort: str
    sample: str
    genes: list[str]
    truth: Values
    predicted: Mapping[str, Values]
    xy: npt.NDArray[np.float64]
    units: str

    def top(self, gene_set: str) -> npt.NDArray[np.intp]:
        """Return the columns of the TOP most expressed (heg) or most variable (hvg) genes of the truth."""
        size = self.truth.sum(axis=0) if gene_set == "heg" else self.truth.var(axis=0)
        return np.argsort(-size, kind="stable")[:TOP]

    @property
    def words(self) -> str:
        """Say which section it is."""
        return f"section {self.sample} of {self.cohort}, held out in fold {self.fold}, {len(self.truth)} spots"


def read_section_genes(predictions: Mapping[str, Path]) -> SectionGenes:
    """Read the section of the first model's median CC from the predictions of all models, by name."""
    predicted: dict[str, Values] = {}
    first: SectionGenes | None = None
    for name, path in predictions.items():
        scored = read_predictions(path)
        if first is None:
            fold, cohort, sample, index = median_section(scored)
            panel = labelled(scored, index)
            truth = scored.reference["labels"][np.ix_(index, panel)]
            units = str(scored.metadata.get("units", "")) or "units of the truth"
            genes = [scored.types[i] for i in panel]
            first = SectionGenes(fold, cohort, sample, genes, truth, predicted, positions(path)[index], units)
            ids = scored.obs.loc[index, "obs_id"].tolist()
        own = scored.obs
        at = own[(own["fold"] == first.fold) & (own["cohort"] == first.cohort) & (own["sample"] == first.sample)]
        place = {gene: i for i, gene in enumerate(scored.types)}
        if at["obs_id"].tolist() != ids or not set(first.genes) <= set(place):
            problem = "was predicted on other observations or genes than the first model."
            raise InputError(path, problem, "remove it and run again.", code="figures-other-run")
        columns = np.array([place[gene] for gene in first.genes], np.intp)
        predicted[name] = scored.prediction[np.ix_(at.index.to_numpy(np.intp), columns)]
    if first is None:
        raise ValueError("no predictions")
    return first


def draw_gene_figures(
    *,
    experiment: str,
    predictions: Mapping[str, Path],
    samples: Sequence[Path],
    genes: Sequence[str],
    out: Mapping[str, Path],
) -> None:
    """Draw ``pcc``, ``profiles``, ``gene_gene`` and ``maps`` of one section.

    `predictions` by name of model, at most `MOST_MODELS` are drawn; `genes` are those of the maps, as far as they are
    predicted; none: the three most variable ones.
    """
    section = read_section_genes(dict(list(predictions.items())[:MOST_MODELS]))
    draw_pcc(section, experiment, out["pcc"])
    draw_profiles(section, experiment, out["profiles"])
    draw_gene_gene(section, experiment, out["gene_gene"])
    draw_gene_maps(section, experiment, samples, genes, out["maps"])


def draw_pcc(section: SectionGenes, experiment: str, out: Path) -> None:
    """Draw the correlation of the section's top genes by model as boxes with every gene as a point (figure 2)."""
    models = list(section.predicted)
    with drawing(out, max(6.4, 1.6 + 0.95 * 2 * len(models)), 4.3) as fig:
        axes = fig.subplots(1, 2, sharey=True)
        for ax, gene_set in zip(axes, _TITLES, strict=True):
            columns = section.top(gene_set)
            for i, model in enumerate(models):
                r = score_columns(section.predicted[model][:, columns], section.truth[:, columns])[0]
                r = r[np.isfinite(r)]
                box = ax.boxplot([r], positions=[i], widths=0.62, patch_artist=True, showfliers=False,
                                 medianprops={"color": "black"})  # fmt: skip
                box["boxes"][0].set(**colour(i), alpha=0.55)
                spread = np.linspace(-0.2, 0.2, max(len(r), 1))[
                    np.argsort(np.argsort(np.random.default_rng(0).random(len(r))))
                ]
                ax.plot(i + spread, r, "o", ms=2.2, color="#333333", alpha=0.6)
                if len(r):
                    ax.text(i, 1.01, f"{np.median(r):.2f}", ha="center", va="bottom", fontsize=8,
                            transform=ax.get_xaxis_transform())  # fmt: skip
            ax.axhline(0, color="black", lw=0.7)
            ax.set_xticks(range(len(models)), models, rotation=25, ha="right")
            ax.set_xlim(-0.6, len(models) - 0.4)
            ax.set_xlabel(f"{len(columns)} {_TITLES[gene_set]} genes\nof the section's truth", labelpad=8)
        axes[0].set_ylabel("Pearson's r over the spots, per gene")
        heading(fig, f"{experiment}\n{section.words}\ncorrelation per gene; numbers above: medians")


def draw_profiles(section: SectionGenes, experiment: str, out: Path) -> None:
    """Draw mean and SD over the spots of every gene, predicted next to true, genes in order of the truth (figure 3)."""
    models = list(section.predicted)
    with drawing(out, max(6.4, 0.6 + 2.7 * len(models)), 5.6) as fig:
        axes = fig.subplots(2, len(models), sharex=True, sharey="row", squeeze=False)
        for line, name in enumerate(("mean", "SD")):
            truth = _over_spots(section.truth, name)
            order = np.argsort(truth, kind="stable")
            for at, model in enumerate(models):
                ax, values = axes[line, at], _over_spots(section.predicted[model], name)
                ax.plot(
                    values[order], "o", ms=1.8, color=colour(1)["facecolor"], alpha=0.7, label="predicted", zorder=1
                )
                ax.plot(truth[order], "o", ms=1.8, color=colour(0)["facecolor"], label="measured", zorder=2)
                r = score_columns(values[:, None], truth[:, None])[0][0]
                below = truth > 0
                share = float(np.median(values[below] / truth[below])) if below.any() else np.nan
                ax.set_title(
                    f"{model}\n" * (line == 0) + f"r = {number(r, 2)}, median ratio {number(share, 2)}", fontsize=8.5
                )
            axes[line, 0].set_ylabel(f"{name} over the spots\n({section.units})")
        for ax in axes[1]:
            ax.set_xlabel("genes, in order of the truth")
        fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False,
                   markerscale=3)  # fmt: skip
        heading(fig, f"{experiment}\n{section.words}\nmean and spread of all {len(section.genes)} genes")


def _over_spots(values: Values, name: str) -> Values:
    return np.asarray(values.mean(axis=0) if name == "mean" else values.std(axis=0))


def gene_order(truth: Values) -> npt.NDArray[np.intp]:
    """Return columns of (n, genes) values in the order of an average-linkage clustering of their correlations."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    if truth.shape[1] < 3:
        return np.arange(truth.shape[1])
    apart = 1 - np.nan_to_num(pearson_cross(truth, truth))
    np.fill_diagonal(apart, 0)
    return np.asarray(leaves_list(linkage(squareform(apart, checks=False), "average", optimal_ordering=True)), np.intp)


def draw_gene_gene(section: SectionGenes, experiment: str, out: Path) -> None:
    """Draw correlations between genes, of truth and models, in the order of the truth's clustering (figure 4)."""
    models = list(section.predicted)
    with drawing(out, 0.9 + 2.35 * (len(models) + 1), 5.5) as fig:
        axes = fig.subplots(2, len(models) + 1, squeeze=False)
        drawn = None
        for line, gene_set in enumerate(_TITLES):
            columns = section.top(gene_set)
            columns = columns[~is_constant(section.truth[:, columns])]
            if len(columns) < 3:
                note(axes[line, 0], "fewer than three genes vary")
                continue
            columns = columns[gene_order(section.truth[:, columns])]
            pairs = np.triu_indices(len(columns), 1)
            matrices = {"measured": section.truth, **section.predicted}
            own = {name: pearson_cross(values[:, columns], values[:, columns]) for name, values in matrices.items()}
            for ax, (name, matrix) in zip(axes[line], own.items(), strict=True):
                drawn = ax.imshow(matrix, cmap=DIVERGING, vmin=-1, vmax=1, interpolation="nearest")
                ax.set_facecolor("#BBBBBB")
                kept = score_columns(np.nan_to_num(matrix[pairs])[:, None], own["measured"][pairs][:, None])[0][0]
                ax.set_title(name if name == "measured" else f"{name}\nr of pairs = {number(kept, 2)}", fontsize=8.5)
                ax.set(xticks=[], yticks=[])
            axes[line, 0].set_ylabel(f"{len(columns)} {_TITLES[gene_set]}")
        if drawn is not None:
            fig.colorbar(drawn, ax=axes, shrink=0.6, label="Pearson's r of two genes; grey: constant")
        heading(fig, f"{experiment}\n{section.words}\ngene with gene, ordered by the clustering of the measured genes")


def draw_gene_maps(
    section: SectionGenes, experiment: str, samples: Sequence[Path], genes: Sequence[str], out: Path
) -> None:
    """Draw genes over the slide, measured and as each model predicts them, on the measured scale (figures 5 to 7)."""
    known = {gene: i for i, gene in enumerate(section.genes)}
    absent = [gene for gene in genes if gene not in known]
    chosen = [known[gene] for gene in genes if gene in known] or section.top("hvg")[:3].tolist()
    view = view_section(find_section(samples, section.cohort, section.sample), section.xy)
    models = list(section.predicted)
    size = 2.5 * (len(models) + 1) + 0.8, len(chosen) * (2.3 * view.aspect + 0.5) + 0.75
    with drawing(out, *size) as fig:
        axes = fig.subplots(len(chosen), len(models) + 1, squeeze=False)
        for line, column in enumerate(chosen):
            truth = section.truth[:, column]
            high = float(np.quantile(truth, 0.99))
            low = min(float(np.quantile(truth, 0.01)), 0.0)
            limits = low, high if high > low else low + 1.0
            for at, (name, values) in enumerate({"measured": section.truth, **section.predicted}.items()):
                ax, own = axes[line, at], values[:, column]
                drawn = view.show(ax, own, limits)
                said = section.genes[column] if at == 0 else ""
                if at:
                    r = score_columns(own[:, None], truth[:, None])[0][0]
                    spread = float(own.std() / truth.std()) if truth.std() > 0 else np.nan
                    said = f"r = {number(r, 2)}, SD ratio {spread_ratio(spread)}"
                ax.set_title(f"{name}\n{said}", fontsize=8.5)
            fig.colorbar(drawn, ax=axes[line].tolist(), shrink=0.75, pad=0.01, extend="max").outline.set_visible(False)
        view.scale_bar(axes[0, 0])
        missing = f"; not predicted: {', '.join(absent)}" if absent else ""
        heading(fig, f"{experiment}\n{section.words}\n{section.units}, one scale for each gene{missing}")
