"""Write envs/*.yaml from envs/rules.toml: direct packages and all that they pull in, each at its pinned version.

constraints.txt does not act under ``--sdm conda``, so a conda file repeats the transitive pins. What pulls in what is
read from the packages that are installed here; run it in the environment of ``make test``. `--check` only compares.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ENVS = Path(__file__).resolve().parents[2] / "envs"
HEADER = """# {title}
# Made by `make envs` from rules.toml. Python comes from conda; pip gives the CUDA build of torch where one exists.
channels:
  - conda-forge
  - nodefaults
dependencies:
  - python=3.11
  - pip
  - pip:
"""


def read_pins() -> dict[str, str]:
    """Return ``name==version`` of every package of the one environment, by its normal name."""
    lines = [line for name in ("constraints", "requirements", "requirements-spatialdata") for line in read_lines(name)]
    return {canonicalize_name(line.partition("==")[0]): line for line in lines}


def read_lines(name: str) -> list[str]:
    """Return the pins of a file of envs/, without its comments."""
    lines = (line.partition("#")[0].strip() for line in (ENVS / f"{name}.txt").read_text().splitlines())
    return [line for line in lines if "==" in line]


def pulled_in(names: Iterable[str], pins: dict[str, str]) -> set[str]:
    """Return the normal names of pinned packages that others need, in any depth.

    A CUDA build of torch also pulls in NVIDIA's packages; torch pins those itself.
    """
    seen: set[tuple[str, str]] = set()
    waiting = [(canonicalize_name(name), "") for name in names]
    while waiting:
        name, extra = waiting.pop()
        for needed in map(Requirement, metadata.requires(name) or []):
            if needed.marker is not None and not needed.marker.evaluate({"extra": extra}):
                continue
            key = canonicalize_name(needed.name)
            new = {(key, more) for more in ("", *needed.extras)} - seen if key in pins else set()
            seen |= new
            waiting += new
    return {name for name, _ in seen}


def render(title: str, packages: list[str], pins: dict[str, str]) -> str:
    """Return the text of one conda file."""
    direct = [canonicalize_name(name) for name in packages]
    others = sorted(pulled_in(packages, pins) - set(direct))
    lines = [f"      - {pins[name]}" for name in direct]
    lines += ["      # pulled in by these", *(f"      - {pins[name]}" for name in others)]
    return HEADER.format(title=title) + "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Write the files, or compare them; 1 when `--check` finds a difference."""
    pins = read_pins()
    rules = tomllib.loads((ENVS / "rules.toml").read_text())
    texts = {ENVS / f"{name}.yaml": render(rule["title"], rule["packages"], pins) for name, rule in rules.items()}
    if "--check" in arguments:
        return int(any(not path.is_file() or path.read_text() != text for path, text in texts.items()))
    for path, text in texts.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
