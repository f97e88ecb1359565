"""The first page and the captions as Snakemake renders them: a small workflow with the real templates."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from browser import CHROMIUM, Page
from histoloom.kinds import CHECKS

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = ROOT / "workflow" / "report"
SNAKEFILE = """
report: "{templates}/workflow.rst"
rule all:
    input: "results/tables/front.c.html", "results/figures/checks/c.png"
rule report_front:
    output: report("results/tables/front.c.html", caption="{templates}/front.rst", category="1. In short")
    shell: "echo '<div>HEADLINE &amp; VERDICT</div>' > {{output}}"
rule report_check:
    output: report("results/figures/checks/{{check}}.png", caption="{templates}/check.rst", category="2. Leakage")
    shell: "echo x > {{output}}"
"""


def finish_report(page: Path) -> int:
    tool = ROOT / "scripts" / "tools" / "finish_report.py"
    return subprocess.run([sys.executable, str(tool), str(page)], capture_output=True, check=False).returncode


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    (folder / "Snakefile").write_text(SNAKEFILE.format(templates=ROOT / "workflow" / "report"))
    (folder / "c.yaml").write_text("checks: {c: {kind: kept}}\n")
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    for more in (["--cores", "1"], ["--report", "report.html"]):
        command = [sys.executable, "-m", "snakemake", "--configfile", "c.yaml", *more]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return folder / "report.html"


def test_the_front_page_holds_the_headline_and_names_the_chapters_of_this_run(report: Path) -> None:
    page = report.read_text()
    assert "<div>HEADLINE &amp; VERDICT</div>" in page
    assert "system-message" not in page  # docutils' way to say that a template is wrong
    assert "whether a section or a person is on both sides" in page
    assert "a difference is printed only where the protocol is the same" not in page  # no such chapter here
    assert "which regions the background filter removes" in page


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_captions_stand_beside_what_a_chapter_shows(report: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(report.read_text())
    assert finish_report(page) == 0
    once = page.read_bytes()
    assert finish_report(page) == 0
    assert page.read_bytes() == once
    with Page(page.as_uri()) as browser:
        browser.wait("document.querySelector('.front .prose') !== null")
        assert "HEADLINE & VERDICT" in browser.run("document.querySelector('.front').textContent")
        browser.run("[...document.querySelectorAll('nav a')].find(a => a.textContent.includes('2. Leakage')).click()")
        browser.wait("document.querySelector('.chapter section') !== null")
        assert "which regions the background filter removes" in browser.run(
            "document.querySelector('.chapter section .words').textContent"
        )
        browser.run("document.querySelector('.chapter section img').click()")
        browser.wait("document.querySelector('.shown img') !== null")
        assert "which regions" in browser.run("document.querySelector('.shown').textContent")
        assert browser.errors == []


def test_a_page_that_is_no_report_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<p>another version</p>")
    assert finish_report(tmp_path / "report.html") == 1
    assert (tmp_path / "report.html").read_text() == "<p>another version</p>"


def test_every_check_has_a_caption_and_every_chapter_a_line() -> None:
    captions, lines = ((TEMPLATES / name).read_text() for name in ("check.rst", "workflow.rst"))
    rules = "".join(path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk"))
    chapters = {kind.chapter for kind in CHECKS.values()} | set(re.findall(r'chapter\("([^"]+)"\)', rules))
    assert [kind for kind in CHECKS if f'"{kind}": "' not in captions] == []
    assert [chapter for chapter in sorted(chapters) if f'"{chapter}": "' not in lines] == []
