"""Write what a run did, good or bad: jobs, seconds, memory asked and used, GPUs, tries, and failures with their logs.

Called at the end of each run, and by hand for any log: `python scripts/tools/run_summary.py [LOG]` in the run's folder.
Writes logs/run_summary.md and keeps one file per run next to it. A run that calls it says so with `--ended`: its
log does not tell yet.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workflow" / "src"))

from histoloom_operations.records import read_planned, settle
from histoloom_operations.render import summary_text
from histoloom_operations.run_log import read_log


def newest_log(folder: Path) -> Path | None:
    """Return the log of the last run in a folder."""
    logs = sorted((folder / ".snakemake" / "log").glob("*.snakemake.log"))
    return logs[-1] if logs else None


def main(arguments: list[str]) -> int:
    """Write and print the summary; 1 where there is no log."""
    folder = Path.cwd()
    named = [word for word in arguments if word != "--ended"]
    log = Path(named[0]) if named else newest_log(folder)
    if log is None or not log.is_file():
        print(f"No log of a run in {folder}. Remedy: call this in the folder of a run, or name a log.", file=sys.stderr)
        return 1
    run = read_log(log)
    run.ended = run.ended or "--ended" in arguments
    settle(run, folder)
    run.planned = read_planned(run, folder) if log == newest_log(folder) else {}
    text = summary_text(run, folder)
    kept = folder / "logs" / "runs" / f"{log.name.removesuffix('.snakemake.log')}.md"
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(text)
        (folder / "logs" / "run_summary.md").write_text(text)
    except OSError as error:
        print(f"The summary cannot be written ({error}); here it is.", file=sys.stderr)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
