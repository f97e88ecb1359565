"""Kill a run at random, again and again, and see that what it ends in is always the same to the byte.

    python scripts/tools/kill_test.py --kills 100 --folder /tmp/kills

A shortened demo (tests/workflow/tiny.yaml) is finished once without a disturbance. Then runs of it are killed with -9
at random moments: the run, one of its workers, or all at once. After each kill comes what `make resume` does. Whenever
a run reaches its end, its tables are compared with the undisturbed ones, its results are thrown away, and it begins
anew. Prints one line per kill and per comparison; status 1 if anything differs or is left half-written.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "workflow" / "src"))

from histoloom_operations.processes import command, is_worker, processes_here

CONFIG = ROOT / "tests" / "workflow" / "tiny.yaml"
# A run reads its plan for about three seconds; its jobs take up to about a minute after that.
SHORTEST, LONGEST = 2.0, 30.0


def call(folder: Path, *arguments: str) -> list[str]:
    """Return the command line of a run in a folder."""
    return [
        sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder),
        "--configfile", str(CONFIG), "--workflow-profile", str(ROOT / "profiles" / "ci"), "--cores", "2", *arguments,
    ]  # fmt: skip


def tables(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all tables and metrics; table 3 is about seconds and memory, which no two runs share."""
    files = [p for part in ("tables", "metrics") for p in sorted((folder / "results" / part).rglob("*")) if p.is_file()]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files if p.stem != "table3"}


def kill(run: subprocess.Popen[bytes], folder: Path, rng: random.Random) -> str:
    """Kill the run, a worker or all of them; return which."""
    workers = [process for process in processes_here(folder) if is_worker(command(process))]
    victim = rng.choice(["run", "worker", "all"] if workers else ["run"])
    victims = {"run": [], "worker": [rng.choice(workers)] if workers else [], "all": workers}[victim]
    if victim != "worker":
        os.kill(run.pid, signal.SIGKILL)
    for process in victims:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    return victim


def resume(folder: Path) -> None:
    """Clear and unlock a folder, as `make resume` does before it runs."""
    subprocess.run(
        [sys.executable, str(ROOT / "scripts/tools/clear_run.py")], cwd=folder, check=True, capture_output=True
    )
    subprocess.run(call(folder, "--unlock"), check=True, capture_output=True)


def begin_anew(folder: Path) -> None:
    """Throw away all results but the raw files."""
    for path in (folder / "results").iterdir():
        if path.name != "sources":
            shutil.rmtree(path)


def main() -> int:
    """Run the test; 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--folder", type=Path, required=True, help="an empty or absent folder")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    rng, base = random.Random(chosen.seed), chosen.folder.resolve()
    if base.exists() and any(base.iterdir()):
        sys.exit(f"{base} is not empty. Remedy: name another folder.")
    undisturbed, disturbed = base / "undisturbed", base / "disturbed"
    undisturbed.mkdir(parents=True)
    subprocess.run(call(undisturbed, "--quiet", "all"), check=True, capture_output=True)
    wanted = tables(undisturbed)
    print(f"undisturbed: {len(wanted)} tables", flush=True)
    disturbed.mkdir()
    kills = compared = bad = 0
    while kills < chosen.kills or compared == 0:
        with (base / "run.log").open("ab") as log:
            run = subprocess.Popen(call(disturbed), stdout=log, stderr=log, start_new_session=True)
        last = kills >= chosen.kills
        wait = rng.uniform(SHORTEST, LONGEST)
        started = time.monotonic()
        try:
            run.wait(timeout=None if last else wait)
        except subprocess.TimeoutExpired:
            victim = kill(run, disturbed, rng)
            run.wait()
            kills += 1
            print(f"kill {kills}: {victim} after {time.monotonic() - started:.1f} s", flush=True)
            resume(disturbed)
            continue
        if run.returncode:
            print(f"a run failed with status {run.returncode}: see {base / 'run.log'}", flush=True)
            return 1
        half = list((disturbed / "results").rglob(".*.part*"))
        same = tables(disturbed) == wanted and not half
        compared, bad = compared + 1, bad + (not same)
        print(f"end {compared}: {'equal to the byte' if same else f'DIFFERENT {half}'}", flush=True)
        begin_anew(disturbed)
    print(f"{kills} kills, {compared} runs to the end, {bad} different")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
