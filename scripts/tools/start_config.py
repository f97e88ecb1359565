"""Write a config and a sheet to fill in. `make init NAME=... SOURCE=... TASK=...` calls this."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "workflow" / "src"))

from histoloom.errors import InputError
from histoloom_operations.starter import ROWS, TASKS, start


def main(arguments: Sequence[str]) -> int:
    """Write the two files and say what to do next."""
    tasks = "; ".join(f"{name}: {what}" for name, what in TASKS.items())
    parser = argparse.ArgumentParser(description="Start a config of your own.")
    parser.add_argument("name", nargs="?", default="mine", help="of the config and its sheet")
    parser.add_argument("--source", default="", help=f"where sections come from: {', '.join(ROWS)}")
    parser.add_argument("--task", default="", help=tasks)
    chosen = parser.parse_args(arguments)
    try:
        config, sheet = start(chosen.name, chosen.source, chosen.task, Path.cwd())
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"Written: {config.name} and {sheet.name}.\n")
    print(f"1. Fill in {sheet.name}: one row per section, cells separated by tabs (a spreadsheet can do that).")
    print(f"2. Look at the lines marked <- in {config.name}.")
    print(f"3. make doctor CONFIG={config.name}")
    print(f"4. make run CONFIG={config.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
