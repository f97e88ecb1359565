"""Resources asked for: measured jobs fit, more input and more attempts ask for more, the profile groups real rules."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
import yaml

from histoloom import kinds
from histoloom.job_resources import (
    MAX_GROWTH,
    NEEDS,
    OVERHEAD_MB,
    advice_when_too_large,
    deconvolution_mb,
    memory_mb,
    runtime_minutes,
)
from histoloom.kind_entries import Memory

# What the profiles grant to jobs whose need does not follow their input.
SMALL = Memory(1000 - OVERHEAD_MB, base_minutes=20)
KINDS = {"read_section": "sources", "embed_batch": "encoders", "label_groups": "labels", "train_model": "models"}


def need_of(job: str) -> Memory:
    """Return what ``rule`` or ``rule.kind`` needs."""
    rule, _, kind = job.partition(".")
    return (kinds.find(KINDS[rule], kind).memory if kind else None) or NEEDS.get(rule, SMALL)


JOBS = [*NEEDS, *(f"{rule}.{kind}" for rule, section in KINDS.items() for kind in kinds.SECTIONS[section])]
ROOT = Path(__file__).resolve().parents[2]
with (Path(__file__).parent / "measured_jobs.tsv").open() as _file:
    MEASURED = list(csv.DictReader(_file, delimiter="\t"))
RULE_TEXTS = {
    name: text
    for path in (ROOT / "workflow/rules").glob("*.smk")
    for name, text in re.findall(r"^rule (\w+):\n(.*?)(?=^\S|\Z)", path.read_text(), re.M | re.S)
}
RULES = set(RULE_TEXTS)

SCRIPTS = {rule: found[1] for rule, text in RULE_TEXTS.items() if (found := re.search(r"/scripts/(\w+)\.py\"", text))}


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
    assert memory_mb(need_of(row["job"]), paths) - OVERHEAD_MB >= 1.2 * float(row["peak_mb"])
    assert runtime_minutes(need_of(row["job"]), paths) * 60 >= 5 * float(row["seconds"])


@pytest.mark.parametrize("job", sorted({row["job"] for row in MEASURED} & set(JOBS)))
def test_no_job_asks_for_many_times_what_it_used(job: str, sized) -> None:
    rows = [row for row in MEASURED if row["job"] == job]
    worst = max(rows, key=lambda row: float(row["peak_mb"]))
    paths = sized(float(worst["pictures_mb"]), float(worst["others_mb"]))
    assert memory_mb(need_of(job), paths) - OVERHEAD_MB <= 3.5 * float(worst["peak_mb"]) + 100


def test_every_need_is_that_of_a_rule() -> None:
    # Each group of encoders has a rule of its own.
    assert set(NEEDS) | set(KINDS) <= RULES | {"embed_group"}


@pytest.mark.parametrize("job", sorted(JOBS))
def test_more_attempts_and_more_input_never_ask_for_less(job: str, sized) -> None:
    small, asked = sized(1, 1), []
    for attempt in range(1, MAX_GROWTH + 3):
        asked.append((memory_mb(need_of(job), small, attempt), runtime_minutes(need_of(job), small, attempt)))
    assert asked == sorted(asked)
    assert asked[1][0] > asked[0][0]
    assert asked[1][1] > asked[0][1]
    assert asked[MAX_GROWTH] == asked[MAX_GROWTH + 1]
    before = memory_mb(need_of(job), sized(1, 1))
    assert memory_mb(need_of(job), sized(50, 50)) >= before


def test_a_file_that_does_not_exist_yet_counts_as_a_typical_one(tmp_path: Path, sized) -> None:
    missing = [tmp_path / "absent.jpg", tmp_path / "absent.h5ad"]
    assert memory_mb(need_of("cut_tiles"), missing) > memory_mb(need_of("cut_tiles"), sized(0, 0))


def test_whole_slides_are_read_by_region_whatever_their_size_and_number(tmp_path: Path) -> None:
    slides = [tmp_path / f"{i}.svs" for i in range(36)]
    for path in slides:
        with path.open("wb") as file:
            file.truncate(2 * 10**9)
    for job in ("report_model", "embed_batch.stain_texture", "cut_tiles", "count_nuclei"):
        assert memory_mb(need_of(job), slides) == memory_mb(need_of(job), slides[:1]) < 8000


def test_pictures_that_are_opened_one_by_one_do_not_add_up(tmp_path: Path) -> None:
    pictures = [tmp_path / f"{i}.jpg" for i in range(100)]
    for i, path in enumerate(pictures):
        with path.open("wb") as file:
            file.truncate(10**6 * (1 + i % 5))
    assert memory_mb(need_of("report_model"), pictures) == memory_mb(need_of("report_model"), pictures[4:5])
    assert memory_mb(need_of("embed_batch.stain_texture"), pictures) > 10 * memory_mb(
        need_of("embed_batch.stain_texture"), pictures[:1]
    )


# Peaks of fits of ours on a CPU: spots, genes, types, posterior samples, MB.
FITS = [
    (1000, 1000, 8, 50, 832),
    (3000, 2000, 10, 20, 1389),
    (3000, 4000, 10, 10, 1594),
    (3000, 500, 30, 1000, 3815),
    (8000, 3000, 10, 5, 2474),
]


@pytest.mark.parametrize(("n_obs", "n_genes", "n_types", "samples", "peak_mb"), FITS)
def test_the_memory_of_a_deconvolution_is_that_of_measured_fits(
    n_obs: int, n_genes: int, n_types: int, samples: int, peak_mb: float
) -> None:
    assert deconvolution_mb(n_obs, n_genes, n_types, samples) == pytest.approx(peak_mb, rel=0.2)


def test_a_deconvolution_too_large_is_refused_with_advice_that_helps() -> None:
    need = deconvolution_mb(5_000, 15_000, 8)
    assert advice_when_too_large(need, need + OVERHEAD_MB + 1, 5_000, 15_000) is None
    advice = advice_when_too_large(need, 5000, 5_000, 15_000)
    assert advice is not None
    problem, remedy = advice
    assert "5000 spots x 15000 genes" in problem
    assert "group_by: section" in remedy
    (genes,) = re.findall(r"max_genes: (\d+)", remedy)
    (memory,) = re.findall(r"mem_mb: (\d+)", remedy)
    assert advice_when_too_large(deconvolution_mb(5_000, int(genes), 8), 5000, 5_000, int(genes)) is None
    assert advice_when_too_large(need, float(memory), 5_000, 15_000) is None
    # Where no number of genes helps, none is named.
    assert "max_genes" not in advice_when_too_large(deconvolution_mb(10**6, 2000, 30), 5000, 10**6, 2000)[1]


def test_profiles_grant_small_jobs_the_same() -> None:
    for path in sorted((ROOT / "profiles").glob("*/config.yaml")):
        defaults = yaml.safe_load(path.read_text())["default-resources"]
        for attempt in range(1, MAX_GROWTH + 3):
            times = min(attempt, MAX_GROWTH)
            assert eval(defaults["mem_mb"], {"attempt": attempt, "min": min}) == 1000 * times
            assert eval(defaults["runtime"], {"attempt": attempt, "min": min}) == 20 * times


def test_profiles_name_rules_that_exist() -> None:
    for path in sorted((ROOT / "profiles").glob("*/config.yaml")):
        profile = yaml.safe_load(path.read_text())
        for key in ("set-resources", "set-threads", "groups"):
            assert set(profile.get(key) or {}) <= RULES, (path, key)
        assert set(profile.get("group-components") or {}) <= set((profile.get("groups") or {}).values()), path


def test_every_rule_goes_to_slurm_in_a_group_or_is_large_enough_to_go_alone() -> None:
    """A rule in neither would be a submission, and half a minute of a scheduler, per small job."""
    alone = {"build_reference", "label_groups", "embed_batch", "train_model", "train_fold"}
    groups = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())["groups"]
    assert RULES - set(groups) == alone
    # Fits, encoders and predictions are all that may hold a GPU: a group of them holds nothing else.
    with_gpu = {rule for rule, text in RULE_TEXTS.items() if re.search(r"\bgpu=", text)}
    assert with_gpu - alone == {"predict_model", "apply_model"}
    shared = {rule for rule, group in groups.items() if group in {groups[rule] for rule in with_gpu - alone}}
    assert shared == {"predict_model", "apply_model", "summarise_training"}


def test_only_rules_with_long_fits_are_warned_early() -> None:
    """A job that listens to no signal would only lose the time between the warning and its end."""
    asked = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())["set-resources"]
    warned = {rule for rule, wishes in asked.items() if "--signal=TERM@" in str(wishes.get("slurm_extra"))}
    listening = {
        rule
        for rule, script in SCRIPTS.items()
        if re.search(r"\bscratch=scratch\s*\) as out", (ROOT / "scripts" / f"{script}.py").read_text())
    }
    assert warned == listening


def test_retries_stand_in_the_profile_and_never_in_a_rule() -> None:
    assert yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())["retries"] >= 1
    for path in (ROOT / "workflow/rules").glob("*.smk"):
        assert "retries:" not in path.read_text(), path
