"""Text tables: dialects, comments, names that look like numbers or missing values, and what is no table."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from error_codes import has_code
from histoloom.errors import InputError
from histoloom.text_tables import read_text_table

ROWS = [["NA", "007", "slide #3"], ["1E3", "nan", "None"], ["T", "", "x"]]


@pytest.mark.parametrize("delimiter", ["\t", ";", ","])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_every_dialect_reads_the_same_text(tmp_path: Path, delimiter: str, end: str, mark: bytes, pack) -> None:
    lines = [["sample", "patient", "note"], *[[f" {cell} " for cell in row] for row in ROWS]]
    text = end.join(delimiter.join(line) for line in lines) + end
    (tmp_path / "t.tsv").write_bytes(pack(mark + text.encode()))
    table = read_text_table(tmp_path / "t.tsv")
    assert list(table.columns) == ["sample", "patient", "note"]
    assert table.to_numpy().tolist() == ROWS
    assert list(table.index) == [2, 3, 4]


def test_comments_and_empty_rows_and_columns_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("# made by\na\tb\t\t\n1\t2\t\t\n\t\t\t\n# no\n3\tx # y\t\t\n\t\t\t\n\n")
    table = read_text_table(tmp_path / "t.tsv")
    assert table.to_numpy().tolist() == [["1", "2"], ["3", "x # y"]]
    assert list(table.index) == [3, 6]


def test_a_header_one_name_short_and_quotation_marks(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('x,y\ns1,1,"a,b"\ns2,2,c\n')
    table = read_text_table(tmp_path / "t.csv")
    assert list(table.columns) == ["", "x", "y"]
    assert table["y"].tolist() == ["a,b", "c"]


def test_a_table_without_header(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("s1,1\ns2,2\n")
    assert read_text_table(tmp_path / "t.csv", ["id", "n"]).to_numpy().tolist() == [["s1", "1"], ["s2", "2"]]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "file-empty"),
        (b" \n\n", "file-empty"),
        (b"a\tb\n1\t2\t3\n4\t5\n", "table-irregular"),
        (b'a\tb\n1\t"2\n', "table-irregular"),
        (b"a\ta\n1\t2\n", "table-column-twice"),
        ("é\tb\n".encode("latin-1"), "text-encoding"),
        (b"a\tb\n1\t\x002\n", "text-encoding"),
        pytest.param(gzip.compress(b"a\tb\n" * 100, mtime=0)[:-9], "gzip-damaged", id="cut gzip"),
    ],
)
def test_what_is_no_table_is_named(tmp_path: Path, content: bytes, code: str) -> None:
    (tmp_path / "t.tsv").write_bytes(content)
    with pytest.raises(InputError, check=has_code(code)):
        read_text_table(tmp_path / "t.tsv")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, check=has_code("file-missing")):
        read_text_table(tmp_path / "t.tsv")
