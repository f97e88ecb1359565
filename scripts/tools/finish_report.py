"""Let Snakemake's report show captions next to figures and tables. `make report` calls this on the page it wrote."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

CHAPTERS = Path(__file__).resolve().parents[2] / "workflow" / "report" / "chapters.js"
# Where all components are known and the page is not drawn yet.
START = "const root = ReactDOM.createRoot(document.querySelector('#app'));"


def main(arguments: Sequence[str]) -> int:
    """Put the script into the page, once; a report of another version of Snakemake is left as it is."""
    report = Path(arguments[0])
    page, script = report.read_text(encoding="utf-8"), CHAPTERS.read_text(encoding="utf-8")
    if page.count(START) != 1:
        print(f"{report}: is no report of the Snakemake that this workflow pins; captions stay behind its icons.")
        return 1
    if script not in page:
        part = report.with_name(f"{report.name}.part")
        part.write_text(page.replace(START, f"{script}\n{START}"), encoding="utf-8")
        os.replace(part, report)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
