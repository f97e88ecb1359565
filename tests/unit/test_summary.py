"""What a log tells: states, tries and what they asked for, failures with their logs; plans from dry runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from histoloom_operations.processes import is_run, is_worker
from histoloom_operations.records import measured_seconds, read_planned, settle, write_planned
from histoloom_operations.render import forecast, plan_text, summary_text
from histoloom_operations.run_log import read_log, read_text

LOG = """
SNAKEMAKE
=========
  Date: 2026-03-01 10:00:00
  Host: login1
  Command: snakemake --workflow-profile profiles/slurm

Building DAG of jobs...
[Sun Mar  1 10:00:01 2026] Group job sections (jobs in lexicogr. order):

    [Sun Mar  1 10:00:01 2026]
    rule cut_tiles:
        input: results/samples/c/a.h5ad, raw/a.jpg
        output: results/tiles/t/c/a.parquet
        log: logs/cut/a.log
        jobid: 2
        benchmark: benchmarks/cut/a.tsv
        wildcards: tiles=t, cohort=c, sample=a
        resources: tmpdir=<TBD>, mem_mb=1500, mem=1.5 GB, runtime=20
    [Sun Mar  1 10:00:01 2026]
    rule read_section:
        input: raw/a.jpg
        output: results/samples/c/a.h5ad
        log: logs/read/a.log
        jobid: 1
        wildcards: cohort=c, sample=a
        resources: tmpdir=<TBD>, mem_mb=900, mem=0.9 GB, runtime=20
Job 0e0ca0aa-0000 has been submitted with SLURM jobid 41 (log: /x/41.log).

[Sun Mar  1 10:00:02 2026]
rule label_groups:
    output: results/labels/n/c/P.0.h5ad
    log: logs/label/P.log
    jobid: 3
    threads: 2
    resources: tmpdir=<TBD>, mem_mb=700, mem=0.7 GB, runtime=10, gpu=1
Job 3 has been submitted with SLURM jobid 42 (log: /x/42.log).
[Sun Mar  1 10:00:20 2026]
Finished jobid: 1 (Rule: read_section)
[Sun Mar  1 10:00:20 2026]
Finished jobid: 2 (Rule: cut_tiles)
[Sun Mar  1 10:00:30 2026]
Error in rule label_groups:
    message: SLURM-job '42' failed, SLURM status is: 'TIMEOUT'. Detailed failure reason unavailable (no sacct).
    jobid: 3
    output: results/labels/n/c/P.0.h5ad
    log: logs/label/P.log, /x/42.log (check log file(s) for error details)
    external_jobid: 42
Trying to restart job 3.

[Sun Mar  1 10:00:30 2026]
rule label_groups:
    output: results/labels/n/c/P.0.h5ad
    log: logs/label/P.log
    jobid: 3
    threads: 2
    resources: tmpdir=<TBD>, mem_mb=1400, mem=1.4 GB, runtime=20, gpu=1
Job 3 has been submitted with SLURM jobid 43 (log: /x/43.log).
"""
GOOD_END = """[Sun Mar  1 10:01:00 2026]
Finished jobid: 3 (Rule: label_groups)
3 of 3 steps (100%) done
Complete log(s): x
Elapsed time: 0:01:00.5
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "logs" / "label").mkdir(parents=True)
    (tmp_path / "logs" / "label" / "P.log").write_text("".join(f"line {i}\n" for i in range(30)) + "the last word\n")
    (tmp_path / "benchmarks" / "cut").mkdir(parents=True)
    (tmp_path / "benchmarks" / "cut" / "a.tsv").write_text("s\th:m:s\tmax_rss\n12.5\t0:00:12\t321.0\n")
    return tmp_path


def log(folder: Path, text: str) -> Path:
    path = folder / "2026-03-01.log"
    path.write_text(text)
    return path


def test_tries_states_and_what_was_asked(folder: Path) -> None:
    run = read_log(log(folder, LOG + GOOD_END))
    assert (run.host, run.ended, run.elapsed) == ("login1", True, "0:01:00")
    assert {job.rule: job.state for job in run.jobs.values()} == dict.fromkeys(
        ("cut_tiles", "read_section", "label_groups"), "finished"
    )
    first, second = run.jobs["3"].tries
    assert (first.mem_mb, first.minutes, first.gpus, first.threads, first.external) == (700, 10, 1, 2, "42")
    assert (second.mem_mb, second.minutes, second.external) == (1400, 20, "43")
    assert first.problem == "SLURM-job '42' failed, SLURM status is: 'TIMEOUT'."
    assert not second.problem


def test_a_group_is_one_submission_with_one_scheduler_number(folder: Path) -> None:
    run = read_log(log(folder, LOG + GOOD_END))
    assert run.submissions() == 2
    assert [run.jobs[n].tries[0].external for n in "12"] == ["41", "41"]
    assert run.jobs["3"].group is None


def test_a_good_run_s_summary_names_the_retry_and_measures(folder: Path) -> None:
    text = summary_text(read_log(log(folder, LOG + GOOD_END)), folder)
    assert "The run ended well. 3 jobs: 3 finished, 0 failed, 0 lost, 0 never started; 1 started again." in text
    row = next(line for line in text.splitlines() if line.startswith("| cut_tiles"))
    assert "321" in row
    assert "1500" in row
    assert "TIMEOUT" in text
    assert "the last word" not in text  # a job that ended well needs no log


def test_a_killed_run_s_summary_says_so_and_shows_the_lost_job_s_log(folder: Path) -> None:
    text = summary_text(read_log(log(folder, LOG)), folder)
    assert "it is alive, or it was killed" in text
    assert "2 finished, 0 failed, 1 lost" in text
    assert "    the last word" in text
    assert "line 5" not in text


def test_a_job_that_was_killed_shows_the_scheduler_s_words_for_it(folder: Path) -> None:
    """Its own log is empty: it had no time."""
    (folder / "logs" / "label" / "P.log").write_text("")
    place = folder / "slurm"
    place.mkdir()
    killed = "slurmstepd-cpu1: error: StepId=43.0 exceeded memory limit (741113856 > 629145600), being killed"
    (place / "42.log").write_text("slurmstepd: error: *** STEP 42.0 CANCELLED AT noon DUE TO TIME LIMIT ***\n")
    (place / "43.log").write_text(f"rule label_groups:\n{killed}\n{killed}\nsrun: error: cpu1: task 0: Killed\n")
    end = "Error in rule label_groups:\n    message: SLURM-job '43' failed\n    jobid: 3\n[Sun Mar  1 10:02:30 2026]\n"
    text = summary_text(read_log(log(folder, (LOG + end).replace("/x/", "slurm/"))), folder)
    assert "  * SLURM: STEP 42.0 CANCELLED AT noon DUE TO TIME LIMIT" in text
    assert text.count("  * SLURM: StepId=43.0 exceeded memory limit (741113856 > 629145600), being killed") == 1
    assert "Last lines of slurm/43.log:" in text
    # The run itself writes the summary before its log says how long it took.
    assert "Elapsed: 0:02:30." in text


def test_a_failed_job_stays_failed(folder: Path) -> None:
    end = "Error in rule label_groups:\n    jobid: 3\nExiting because a job execution failed.\nElapsed time: 0:02:00\n"
    run = read_log(log(folder, LOG + end))
    assert run.jobs["3"].state == "failed"
    assert "ended with failures" in summary_text(run, folder)


def test_a_plan_counts_submissions_gpu_hours_and_bytes() -> None:
    run = read_text(LOG)
    text = plan_text(run, {"raw/b.jpg": 4_000_000, "raw/c.jpg": None}, read=2_000, free=10**10, measured={})
    assert "3 jobs in 2 submissions (rules of one group share one); at most 0.2 GPU-hours." in text
    assert "To fetch: 4.0 MB in 2 files, and the sizes of 1 that only their host states. To read: 2.0 kB" in text


def test_an_empty_log_is_no_run(folder: Path) -> None:
    assert "0 jobs" in summary_text(read_log(log(folder, "")), folder)


@pytest.mark.parametrize(
    ("command", "run", "worker"),
    [
        ("/v/bin/python /v/bin/snakemake --cores 2", True, False),
        ("/v/bin/python -m snakemake --cores 2", True, False),
        ("/v/bin/python -m snakemake --snakefile S --executor slurm-jobstep --jobs 1 --mode remote", False, True),
        ("/v/bin/python -m snakemake --snakefile S --cores 'all' --mode 'remote'", False, True),
        ("/v/bin/python -m snakemake --snakefile S --mode subprocess", False, True),
        ("/v/bin/python /f/.snakemake/scripts/tmpx.label_groups.py", False, True),
        ("vim Snakefile", False, False),
    ],
)
def test_runs_and_their_workers_are_told_apart(command: str, run: bool, worker: bool) -> None:
    assert is_run(command) is run
    assert is_worker(command) is worker


def test_jobs_that_never_started_are_counted_from_what_the_run_began_with(folder: Path) -> None:
    write_planned({"cut_tiles": 1, "read_section": 1, "label_groups": 3, "train_model": 2}, folder)
    run = read_log(log(folder, LOG + GOOD_END))
    run.planned = read_planned(run, folder)
    text = summary_text(run, folder)
    assert "The run ended with failures. 7 jobs: 3 finished, 0 failed, 0 lost, 4 never started" in text
    assert "Most time went into: cut_tiles 12 s." in text
    # A note of an earlier run says nothing of this one.
    os.utime(folder / "logs" / "runs" / "planned.json", (0, 0))
    assert read_planned(run, folder) == {}


def test_a_quiet_log_names_no_ends_and_benchmark_files_do(folder: Path) -> None:
    quiet = "\n".join(line for line in LOG.splitlines() if not line.startswith("Finished jobid"))
    run = read_log(log(folder, quiet))
    assert {job.state for job in run.jobs.values()} == {"lost"}
    settle(run, folder)
    assert {job.rule: job.state for job in run.jobs.values()}["cut_tiles"] == "finished"
    assert [job.state for job in run.jobs.values()].count("lost") == 2
    run = read_log(log(folder, quiet))
    os.utime(folder / "benchmarks" / "cut" / "a.tsv", (0, 0))  # of an earlier run
    settle(run, folder)
    assert {job.state for job in run.jobs.values()} == {"lost"}


def test_a_forecast_takes_what_jobs_took_before(folder: Path) -> None:
    run = read_text(LOG)
    assert "Forecast: none" in forecast(run, {})
    for number in ("b", "c"):
        (folder / "benchmarks" / "label" / "label_groups").mkdir(parents=True, exist_ok=True)
        path = folder / "benchmarks" / "label" / "label_groups" / f"{number}.tsv"
        path.write_text(f"s\th:m:s\tmax_rss\n{120 if number == 'b' else 360}\t0:02:00\t321.0\n")
    measured = measured_seconds(folder)
    assert measured == {"label_groups": [120.0, 360.0]}
    text = forecast(run, measured)
    assert "Forecast: 4 minutes of work on one core for 1 jobs" in text
    assert "Not measured here: cut_tiles, read_section" in text or "Not measured here: read_section, cut_tiles" in text
