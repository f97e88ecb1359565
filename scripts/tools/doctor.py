"""Before a run: can it succeed on this machine? One table; exit 1 if it cannot. `make doctor CONFIG=...` calls this.

python scripts/tools/doctor.py [CONFIG ...] [--config KEY=VALUE ...] [--slurm]
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "workflow" / "src"))

from histoloom.errors import InputError
from histoloom.user_yaml import read_user_yaml
from histoloom_operations.findings import FAIL, as_table
from histoloom_operations.preflight import check_run


def merge(into: dict[str, Any], more: dict[str, Any]) -> None:
    """Merge a config into another in depth, as several --configfile are merged."""
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


def read_config(files: Sequence[Path], settings: Sequence[str]) -> dict[str, Any]:
    """Return the merged config files with `KEY=VALUE` settings on top."""
    config: dict[str, Any] = {}
    for path in files:
        try:
            merge(config, read_user_yaml(path))
        except InputError as error:
            sys.exit(str(error))
    for setting in settings:
        key, _, value = setting.partition("=")
        config[key] = yaml.safe_load(value)
    return config


def main(arguments: Sequence[str]) -> int:
    """Print the table; 1 if the run cannot succeed."""
    parser = argparse.ArgumentParser(description="Can a run succeed on this machine?")
    parser.add_argument("files", nargs="*", type=Path, help="config files; none: config/config.yaml")
    parser.add_argument("--config", nargs="*", default=[], metavar="KEY=VALUE", help="settings on top")
    parser.add_argument("--slurm", action="store_true", help="the run is to be sent to a cluster")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.ERROR)
    files = chosen.files or [ROOT / "config" / "config.yaml"]
    config = read_config(files, chosen.config)
    findings = check_run(config, files, slurm=chosen.slurm)
    print(as_table(findings))
    failed = any(finding.state == FAIL for finding in findings)
    parts = [*(config.get("experiments") or {}), *(config.get("checks") or {})]
    if failed and len(parts) > 1 and not config.get("only"):
        print(f"A part of it may need less: `--config only=[NAME]`, a name of {', '.join(parts)}.")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
