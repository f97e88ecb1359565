"""Hook of mkdocs: pages that live outside docs/, with their links turned to where the site has them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = (
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "CITATION.cff",
    "config/README.md",
    "config/cohorts/README.md",
    "profiles/README.md",
)
PAGES = {"index.md": "README.md"} | {name: name for name in OUTSIDE}
PICTURES = "resources/pictures"


def on_files(files: Files, config: Any) -> Files:
    """Add the pages and their pictures, and the pages of the reference to the menu."""
    pictures = [f"{PICTURES}/{path.name}" for path in (ROOT / PICTURES).iterdir()]
    sources = PAGES | {name: name for name in pictures}
    for page, source in sources.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    reference = sorted(path.name for path in (ROOT / "docs" / "reference").glob("*.md") if path.name != "index.md")
    config["nav"][-1]["Config reference"] += [f"reference/{name}" for name in reference]
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn links into docs/, which is the site's root."""
    del config, files
    if page.file.src_uri not in PAGES:
        up = "../" * page.file.src_uri.count("/")
        return re.sub(rf"\]\({re.escape(up)}\.\./(config|profiles|resources)/", rf"]({up}\1/", markdown)
    return markdown.replace("](docs/", "](").replace("](../docs/", "](../").replace("](README.md", "](index.md")
