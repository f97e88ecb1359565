"""Resources asked for: measured jobs fit, more input and more attempts ask for more, the profile groups real rules."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
import yaml

from histoloom.resources import (
    DEMANDS,
    MAX_GROWTH,
    OVERHEAD_MB,
    UNMEASURED,
    advice_when_too_large,
    deconvolution_mb,
    demand,
    memory_mb,
    runtime_minutes,
)

ROOT = Path(__file__).resolve().parents[2]
with (Path(__file__).parent / "measured_jobs.tsv").open() as _file:
    MEASURED = list(csv.DictReader(_file, delimiter="\t"))
RULES = {
    name
    for path in (ROOT / "workflow/rules").glob("*.smk")
    for name in re.findall(r"^rule (\w+):", path.read_text(), re.M)
}


@pytest.fixture
def sized(tmp_path: Path):
    """Make sparse files of given sizes: a picture and something else."""

    def make(pictures_mb: float, others_mb: float) -> list[Path]:
        files = []
        for name, size in (("slide.jpg", pictures_mb), ("counts.h5ad", others_mb)):
            path = tmp_path / name
            with path.open("wb") as file:
                file.truncate(int(size * 1e6))
            files.append(path)
        return files

    return make


@pytest.mark.parametrize("row", MEASURED, ids=lambda r: f"{r['job']}-{r['payload']}-{r['peak_mb']}")
def test_measured_jobs_fit_the_first_attempt_with_a_fifth_to_spare(row: dict[str, str], sized) -> None:
    paths = sized(float(row["pictures_mb"]), float(row["others_mb"]))
    assert memory_mb(row["job"], paths) - OVERHEAD_MB >= 1.2 * float(row["peak_mb"])
    assert runtime_minutes(row["job"], paths) * 60 >= 5 * float(row["seconds"])


@pytest.mark.parametrize("job", sorted({row["job"] for row in MEASURED}))
def test_no_job_asks_for_many_times_what_it_used(job: str, sized) -> None:
    rows = [row for row in MEASURED if row["job"] == job]
    worst = max(rows, key=lambda row: float(row["peak_mb"]))
    paths = sized(float(worst["pictures_mb"]), float(worst["others_mb"]))
    assert memory_mb(job, paths) - OVERHEAD_MB <= 3.5 * float(worst["peak_mb"]) + 100


def test_every_demand_is_that_of_a_rule_and_a_new_rule_gets_a_generous_one() -> None:
    assert {job.partition(".")[0] for job in DEMANDS} <= RULES
    assert demand("a_rule_of_tomorrow") is UNMEASURED


@pytest.mark.parametrize("job", sorted(DEMANDS))
def test_more_attempts_and_more_input_never_ask_for_less(job: str, sized) -> None:
    small, asked = sized(1, 1), []
    for attempt in range(1, MAX_GROWTH + 3):
        asked.append((memory_mb(job, small, attempt), runtime_minutes(job, small, attempt)))
    assert asked == sorted(asked)
    assert asked[1][0] > asked[0][0]
    assert asked[1][1] > asked[0][1]
    assert asked[MAX_GROWTH] == asked[MAX_GROWTH + 1]
    before = memory_mb(job, sized(1, 1))
    assert memory_mb(job, sized(50, 50)) >= before


def test_a_file_that_does_not_exist_yet_counts_as_a_typical_one(tmp_path: Path, sized) -> None:
    missing = [tmp_path / "absent.jpg", tmp_path / "absent.h5ad"]
    assert memory_mb("cut_tiles", missing) > memory_mb("cut_tiles", sized(0, 0))


def test_whole_slides_are_read_by_region_whatever_their_size_and_number(tmp_path: Path) -> None:
    slides = [tmp_path / f"{i}.svs" for i in range(36)]
    for path in slides:
        with path.open("wb") as file:
            file.truncate(2 * 10**9)
    for job in ("draw_errors", "embed_batch.stain_texture", "cut_tiles", "count_nuclei"):
        assert memory_mb(job, slides) == memory_mb(job, slides[:1]) < 8000


def test_pictures_that_are_opened_one_by_one_do_not_add_up(tmp_path: Path) -> None:
    pictures = [tmp_path / f"{i}.jpg" for i in range(100)]
    for i, path in enumerate(pictures):
        with path.open("wb") as file:
            file.truncate(10**6 * (1 + i % 5))
    assert memory_mb("draw_errors", pictures) == memory_mb("draw_errors", pictures[4:5])
    assert memory_mb("embed_batch.stain_texture", pictures) > 10 * memory_mb("embed_batch.stain_texture", pictures[:1])


def test_the_dense_counts_of_a_group_are_reckoned_before_the_fit() -> None:
    need = deconvolution_mb(n_obs=50_000, n_genes=15_000, n_types=30)
    assert need > 50_000 * 15_000 * 4 / 1e6
    said = advice_when_too_large(need, 8000, 50_000, 15_000)
    assert said is not None
    for word in ("50000 spots", "group_by: section", "mem_mb"):
        assert word in " ".join(said)
    assert advice_when_too_large(need, need + 1, 50_000, 15_000) is None


def test_profiles_name_rules_that_exist() -> None:
    for path in sorted((ROOT / "profiles").glob("*/config.yaml")):
        profile = yaml.safe_load(path.read_text())
        for key in ("set-resources", "set-threads", "groups"):
            assert set(profile.get(key) or {}) <= RULES, (path, key)
        assert set(profile.get("group-components") or {}) <= set((profile.get("groups") or {}).values()), path


def test_retries_stand_in_the_profile_and_never_in_a_rule() -> None:
    assert yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())["retries"] >= 1
    for path in (ROOT / "workflow/rules").glob("*.smk"):
        assert "retries:" not in path.read_text(), path
