"""Small files of simulated sections in the layouts of her2st and STNet, four patients in both, and a small config."""

from __future__ import annotations

import copy
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import yaml

from hest_world import ROOT, read_sheet
from histoloom import paths as patterns
from histoloom import torch_compat  # noqa: F401 - before timm, which imports torchvision
from histoloom.audit import audit_sections
from histoloom.report.ablation import report_ablation
from histoloom.report.audit_figure import draw_audit
from histoloom.report.experiment import report_experiment, report_model
from histoloom.report.leak_figures import draw_leaks
from histoloom.report.leaks import write_leaks
from histoloom.report.side_by_side import draw_coloc_models, draw_models
from histoloom.samples.her2st import Her2stReader
from histoloom.samples.stnet import ROLES
from histoloom_simulation import write_reference, write_section
from raw_layouts import packed
from simulated_world import paths, ready
from simulation_fixtures import simulated_spec
from whole_config import ENDINGS, WholeConfig

Sheet = pd.DataFrame
SHARED = ("BC23567", "BC23810", "BC23903", "BC24044")
_TUMOUR = ("invasive cancer", "cancer in situ")


class Publisher:
    """Simulated sections by sample, given out in the layout of each publisher."""

    def __init__(self, folder: Path, sheets: Mapping[str, Sheet], seed: int) -> None:
        self.folder, self.sheets = folder, sheets
        rows = [self._row(row, mpp=2.6 if row["patient"] == "A" else 2.0) for row in _records(sheets["her2st"])]
        own = [row for row in _records(sheets["stnet"]) if not row["x_her2st_section"]]
        rows += [self._row(row, mpp=2.0) for row in own]
        self.spec = simulated_spec(rows=rows, seed=seed, array_x=9, array_y=8, generic_genes=40)
        self.rows = {row["sample"]: row for row in rows}
        self._made: dict[str, dict[str, Path]] = {}

    @staticmethod
    def _row(row: Mapping[str, str], mpp: float) -> dict[str, str]:
        return {"sample": row["sample"], "patient": row["patient"], "mpp": f"{mpp:g}", "pitch_um": "200",
                "spot_diameter_um": "100"}  # fmt: skip

    def section(self, sample: str) -> dict[str, Path]:
        """Return a section's simulated files by role."""
        if sample not in self._made:
            own = self.folder / "simulated" / sample
            own.mkdir(parents=True)
            names = {"counts": "c.tsv.gz", "spots": "s.tsv", "image": "i.jpg", "regions": "r.tsv", "truth": "t.tsv"}
            self._made[sample] = {role: own / name for role, name in names.items()}
            write_section(spec=self.spec, row=self.rows[sample], out=self._made[sample])
        return self._made[sample]

    def genes(self, symbols: Sequence[str]) -> list[str]:
        """Return made-up Ensembl ids of genes, the same for every table."""
        if not hasattr(self, "_ids"):
            self._ids = {name: f"ENSG{i:011d}" for i, name in enumerate(sorted(symbols), start=1)}
        return [self._ids[name] for name in symbols]

    def gene_table(self) -> Path:
        """Write HGNC's columns for the simulated genes."""
        path = self.folder / "genes.tsv"
        blank = dict.fromkeys(("name", "prev_symbol", "alias_symbol"), "")
        rows = [{"hgnc_id": f"HGNC:{i}", "symbol": name, "ensembl_gene_id": ensembl, **blank}
                for i, (name, ensembl) in enumerate(self._ids.items(), start=1)]  # fmt: skip
        columns = ["hgnc_id", "symbol", "name", "ensembl_gene_id", "prev_symbol", "alias_symbol"]
        pd.DataFrame(rows)[columns].to_csv(path, sep="\t", index=False)
        return path

    def reference(self, folder: Path) -> Path:
        """Write the reference as CELLxGENE has HBCA: Ensembl ids, normalised X, counts in raw."""
        write_reference(spec=self.spec, out=folder / "plain.h5ad")
        cells = anndata.read_h5ad(folder / "plain.h5ad")
        names = {"cell_type": "author_cell_type", "donor": "donor_id"}
        var = pd.DataFrame({"feature_name": list(cells.var_names)}, index=self.genes(list(cells.var_names)))
        counts = anndata.AnnData(cells.X.astype(np.float32), obs=cells.obs.rename(columns=names), var=var)
        counts.raw = counts.copy()
        counts.X = counts.X.log1p()
        counts.write_h5ad(folder / "hbca.h5ad")
        return folder / "hbca.h5ad"

    def her2st(self, root: Path) -> None:
        """Write her2st's repository, with stereoscope's proportions in place of the fitted ones: the true shares."""
        (root / "res/ST-deconv/props").mkdir(parents=True)
        with zipfile.ZipFile(root / "res/ST-deconv/props/minor.zip", "w") as props:
            for row in _records(self.sheets["her2st"]):
                made = self.section(row["sample"])
                for role, place in Her2stReader.files(row, {"images": True}, root).items():
                    Path(place).parent.mkdir(parents=True, exist_ok=True)
                    Path(place).write_bytes(made[role].read_bytes())
                cells = pd.read_csv(made["truth"], sep="\t", index_col=0) + 0.01
                text = cells.div(cells.sum(axis=1), axis=0).to_csv(sep="\t")
                props.writestr(f"minor/{row['sample']}-proportion.tsv", text)

    def stnet(self, root: Path) -> None:
        """Write STNet's record: Ensembl ids, spots off the tissue without a position, CR in the annotation."""
        root.mkdir(parents=True)
        published = []
        for row in _records(self.sheets["stnet"]):
            made = self.section(row["x_her2st_section"] or row["sample"])
            counts = pd.read_csv(made["counts"], sep="\t", index_col=0)
            counts.columns = self.genes(list(counts.columns))
            beyond = pd.DataFrame(1, index=["1x1", "33x35"], columns=counts.columns)
            (root / row["counts"]).write_bytes(packed(pd.concat([counts, beyond]).to_csv(sep="\t")))
            spots = pd.read_csv(made["spots"], sep="\t")
            spots.index = [f"{x}x{y}" for x, y in zip(spots["x"], spots["y"], strict=True)]
            places = spots.rename(columns={"pixel_x": "X", "pixel_y": "Y"})[["X", "Y"]]
            (root / row["spots"]).write_bytes(packed(places.to_csv()))
            (root / row["image"]).write_bytes(made["image"].read_bytes())
            if row["annotation"]:
                regions = pd.read_csv(made["regions"], sep="\t").dropna(subset=["x"])
                lines = ["xcoord\tycoord\tlab\ttumor"]
                for x, y, label in regions[["x", "y", "label"]].to_numpy():
                    lines.append(f"s_{x}_{y}\t{x}\t{y}\tL\t{'tumor' if label in _TUMOUR else 'non'}")
                (root / row["annotation"]).write_bytes(packed("\r".join(lines) + "\r"))
            replicate = row["sample"].removeprefix(row["patient"] + "_")
            names = {column: row[role] for role, column in ROLES.items()}
            published.append({"type": "HER2_luminal", "patient": row["patient"], "replicate": replicate, **names})
        pd.DataFrame(published).to_csv(root / "metadata.csv", index=False)


def _records(sheet: Sheet) -> list[dict[str, str]]:
    return [{str(k): str(v) for k, v in row.items()} for row in sheet.to_dict("records")]


def chosen_rows(sheet: Sheet, patients: Sequence[str] | None) -> Sheet:
    """Return the first section of patients, of all of them where none are named."""
    kept = sheet if patients is None else sheet[sheet["patient"].isin(patients)]
    return kept.groupby("patient", sort=False).head(1)


def small_config(
    folder: Path, patients: Mapping[str, Sequence[str]] | None = None, seed: int = 7
) -> tuple[dict[str, Any], Path]:
    """Return ``config/decomposition.yaml`` cut down, written to a folder with its sheets and raw files, and its path.

    One section of each patient (of those named by cohort), four patients of both cohorts with the same one. The same experiments and models: tiles, networks, epochs and fits are small, and the encoders in place of the gated
    ones are small networks with weights of their own.
    """
    config = yaml.safe_load((ROOT / "config/decomposition.yaml").read_text())
    sheets = {
        name: chosen_rows(read_sheet(entry["sheet"]), (patients or {}).get(name))
        for name, entry in config["cohorts"].items()
    }
    # A shared section of STNet is that of her2st, of which the first are taken.
    known = set(sheets["her2st"]["sample"])
    stnet = sheets["stnet"]
    assert set(stnet.loc[stnet["x_her2st_section"] != "", "x_her2st_section"]) <= known
    (folder / "cohorts").mkdir(parents=True)
    publisher = Publisher(folder, sheets, seed)
    reference = publisher.reference(folder)
    for name, write in (("her2st", publisher.her2st), ("stnet", publisher.stnet)):
        entry = config["cohorts"][name]
        sheets[name].to_csv(folder / entry["sheet"], sep="\t", index=False)
        write(folder / "raw" / name)
    config["raw_dir"] = str(folder / "raw")
    config["genes"] = {"table": str(publisher.gene_table())}
    config["references"]["hbca"] |= {
        "path": str(reference), "signatures": {"method": "regression", "max_epochs": 20, "posterior_samples": 10},
    }  # fmt: skip
    config["labels"]["c2l"] |= {"max_epochs": 100, "posterior_samples": 20}
    config["tiles"]["native224"] |= {"size_px": 64}
    config["tiles"]["um112"] |= {"size_px": 32, "um_per_px": 3.5}
    config["cards"] = {}
    for number, (name, px) in enumerate({"conch": 96, "uni": 64, "uni2": 64}.items()):
        config["cards"][f"small_{name}"] = {
            "kind": "timm", "about": "a small network", "arch": "resnet10t", "arch_kwargs": {"num_classes": 0},
            "dim": 512, "default_weights": "path", "input_px": px, "pooling": "mean", "licence": "none",
            "citation": "none",
        }  # fmt: skip
        config["encoders"][name] |= {"card": f"small_{name}", "weights": str(_weights(folder, name, number))}
    shrink(config["models"])
    for entry in config["experiments"].values():
        entry["train_seeds"] = [0, 1]
    path = folder / "decomposition.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(config)), sort_keys=False))
    return copy.deepcopy(config), path


def _weights(folder: Path, name: str, seed: int) -> Path:
    import timm
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = timm.create_model("resnet10t", num_classes=0)
    path = folder / f"{name}.pth"
    torch.save(network.state_dict(), path)
    return path


def shrink(models: Mapping[str, dict[str, Any]]) -> None:
    """Make the models of the config small: what they cost, not what they are."""
    small = {
        "mlp": {"width": 64, "epochs": 10, "min_steps": 150, "batch_size": 64},
        "hist2cell": {"weights": "random", "input_px": 32, "batch_size": 512, "epochs": 1},
    }  # fmt: skip
    for entry in models.values():
        entry.update(small.get(entry["kind"], {}))


class PaperRun(WholeConfig):
    """Runs experiments on abundance, with everything that the report shows of them."""

    def report(self, experiment: str, target: Path, folds: Path) -> None:
        """Look for sections on both sides, then write all tables and figures of an experiment."""
        plan, entry = self.plan, self.plan.config.get("experiments", experiment)
        files, spec = plan.report.report_files(experiment), plan.report.spec(experiment)
        audit = ready(patterns.AUDIT.format(experiment=experiment))
        audit_sections(
            spec={"on_match": entry["content_guard"]}, samples=paths(files["samples"]), folds=folds,
            genes=next(iter(paths(plan.experiments.audit_genes(experiment))), None), out=audit,
        )  # fmt: skip
        draw_audit(table=audit, title=experiment, out=ready(patterns.CONTENT_FIGURE.format(experiment=experiment)))
        results = {role: paths(names) for role, names in plan.report.results(experiment).items()}
        given: dict[str, Any] = {"spec": spec, "metrics": results["metrics"]}
        tables = {name: self._table(experiment, name) for name in ("summary", "baselines", "ablation", "leaks")}
        out = {f"{name}_{e}": tables[name][e] for name in ("summary", "baselines") for e in ENDINGS}
        out |= {name: self._figure(experiment, name) for name in ("bars", "baselines", "between", "curves")}
        report_experiment(experiment=experiment, spec=spec, **results, out=out)
        if plan.models.ablation(experiment):
            out = {**tables["ablation"], "figure": self._figure(experiment, "ablation")}
            report_ablation(experiment=experiment, **given, out=out)
        if experiment in plan.experiments.leakage_tests():
            given["metrics"] = paths(plan.report.leakage_results(experiment)["metrics"])
            draw_leaks(**given, out=self._figure(experiment, "leaks"))
            write_leaks(**given, out=tables["leaks"])
        if models := plan.report.compared(experiment):
            read = {role: paths(names) for role, names in plan.report.compared_files(experiment).items()}
            predictions, metrics = (dict(zip(models, read[role], strict=True)) for role in ("predictions", "metrics"))
            draw_models(
                experiment=experiment, models=predictions, samples=read["samples"], target=target, folds=folds,
                out=ready(patterns.MODELS_FIGURE.format(experiment=experiment)),
            )  # fmt: skip
            draw_coloc_models(
                experiment=experiment, models=metrics, out=self._figure(experiment, "models_colocalization")
            )
        for model in plan.models.mapped(experiment):
            names = {"experiment": experiment, "model": model}
            read = {
                "predictions": [plan.models.first_predictions(experiment, model)],
                "metrics": [patterns.METRICS.format(**names)], "target": [target], "folds": [folds], **files,
            }  # fmt: skip
            figures = {"maps": "maps.jpg", "ranks": "ranks.png", "colocalization": "colocalization.png",
                       "errors": "errors.jpg"}  # fmt: skip
            out = {role: ready(patterns.MODEL_FIGURE.format(**names, figure=name)) for role, name in figures.items()}
            out["cases"] = ready(patterns.CASES.format(**names))
            report_model(
                **names, title=plan.report.title(experiment), files={k: paths(v) for k, v in read.items()}, out=out
            )

    @staticmethod
    def _table(experiment: str, name: str) -> dict[str, Path]:
        return {e: ready(patterns.TABLE.format(experiment=experiment, table=name, ending=e)) for e in ENDINGS}

    @staticmethod
    def _figure(experiment: str, name: str) -> Path:
        return ready(patterns.FIGURE.format(experiment=experiment, figure=name))
