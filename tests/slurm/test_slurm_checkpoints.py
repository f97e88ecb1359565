"""A fit that SLURM ends for its time goes on in the next try, and gives the bytes of an undisturbed fit."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import cluster
import pytest
import yaml
from slurm_runs import ROOT, SNAKEMAKE, Site
from test_slurm_runs import cell2location_config

pytestmark = pytest.mark.slurm
FIT = "results/labels/c2l/tiny/P.0"
LOG = "logs/labels/label_groups/c2l/tiny/P.0.log"
EPOCHS = 150


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny cohort with labels by a cell2location fit of some seconds."""
    path = cell2location_config(tmp_path_factory.mktemp("config"))
    raw = yaml.safe_load(path.read_text())
    raw["labels"]["c2l"] |= {"max_epochs": EPOCHS, "lr": 0.02}
    path.write_text(yaml.safe_dump(raw))
    return path


@pytest.fixture(scope="module")
def undisturbed(local: Path, config: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The labels of a fit on this machine without SLURM."""
    site = Site(tmp_path_factory.mktemp("undisturbed") / "run")
    site.take_over(local)
    words = [*SNAKEMAKE, "--configfile", str(config), "--directory", str(site.folder), FIT, "--cores", "1"]
    words += ["--workflow-profile", str(ROOT / "profiles" / "ci")]
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-4000:]
    return (site.folder / FIT / "P.0.h5ad").read_bytes()


def stalled_job(site: Site) -> str:
    """Wait until the fit hangs, and return its SLURM job."""
    site.wait("a fit that hangs", (site.faults / "stalled").exists, 400)
    return site.ledger("label_groups")[0].job


def assert_went_on(site: Site, undisturbed: bytes) -> None:
    assert site.starts("label_groups") == 2
    assert re.search(rf"asked to end by SIGTERM: saved at epoch \d+ of {EPOCHS}", site.text())
    saved, again = (re.findall(pattern, text)[0] for pattern, text in (
        (r"saved at epoch (\d+)", site.text()), (r"going on from epoch (\d+)", (site.folder / LOG).read_text()),
    ))  # fmt: skip
    assert again == saved
    assert (site.folder / FIT / "P.0.h5ad").read_bytes() == undisturbed
    assert not list((site.folder / "results/checkpoints").rglob("*.*"))
    assert not list((site.folder / "results").rglob(".*.part*"))


@pytest.mark.slurm_long
def test_a_fit_is_warned_before_its_time_is_over_and_goes_on(site: Site, config: Path, undisturbed: bytes) -> None:
    """The shipped profile asks for SIGTERM two minutes before the end: the job saves and ends by itself."""
    site.fault("label_groups", "stall", 12)
    site.start("--configfile", str(config), targets=(FIT,))
    job = stalled_job(site)
    # As if too little time had been asked for. The controller looks at the clock every thirty seconds.
    cluster.ask("scontrol", "update", f"jobid={job}", "timelimit=3")
    assert site.finish() == 0, site.text()[-5000:]
    assert site.records()[job].state == "FAILED"
    assert_went_on(site, undisturbed)


@pytest.mark.slurm_long
def test_a_fit_over_its_time_saves_in_the_grace_it_gets_and_goes_on(
    site: Site, config: Path, undisturbed: bytes
) -> None:
    """Without an early signal SLURM still sends SIGTERM at the limit, and SIGKILL `KillWait` seconds later."""
    site.fault("label_groups", "stall", 12)
    site.start("--configfile", str(config), "--set-resources", "label_groups:runtime=10", targets=(FIT,))
    job = stalled_job(site)
    cluster.ask("scontrol", "update", f"jobid={job}", "timelimit=1")
    assert site.finish() == 0, site.text()[-5000:]
    assert site.records()[job].state == "TIMEOUT"
    assert_went_on(site, undisturbed)
