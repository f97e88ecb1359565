"""Members of remote archives, and mirrors that hold a file in another form."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import zipfile
from pathlib import Path

import pytest
from download_inputs import DATA, fetch, left, record

from error_codes import has_code
from histoloom.errors import InputError
from loopback import Site, send_file

# members of remote archives --------------------------------------------------------------------------------------


def archive(members: dict[str, bytes], password: str = "") -> bytes:
    held = io.BytesIO()
    if password:
        import pyzipper

        with pyzipper.AESZipFile(held, "w", compression=zipfile.ZIP_DEFLATED, encryption=pyzipper.WZ_AES) as zipped:
            zipped.setpassword(password.encode())
            for name, body in members.items():
                zipped.writestr(name, body)
    else:
        with zipfile.ZipFile(held, "w", compression=zipfile.ZIP_DEFLATED) as plain:
            for name, body in members.items():
                plain.writestr(name, body)
    return held.getvalue()


NOISE = hashlib.shake_256(b"noise").digest(900_000)


def zip_row(site: Site, member: str = "cells.parquet", **columns: str) -> dict[str, str]:
    return {"downloader": "zip_member", "url": f"{site.host}/outs.zip#{member}", "file": "x_outs/cells.h5ad", **columns}


def test_member_of_a_remote_archive_costs_its_own_bytes(site: Site, tmp_path: Path) -> None:
    body = archive({"big.bin": NOISE, "cells.parquet": DATA, "other.bin": NOISE})
    site.files["/outs.zip"] = body
    fetch(tmp_path / "a", **zip_row(site))
    assert (tmp_path / "a").read_bytes() == DATA
    ranges = [headers["Range"] for _, headers in site.requests]
    assert ranges[0] == "bytes=-65536"
    first, last = map(int, ranges[1].removeprefix("bytes=").split("-"))
    assert last - first < len(DATA)
    assert len(ranges) == 2
    assert left(tmp_path) == ["a", "a.json"]
    assert record(tmp_path / "a")["version"]["member"] == "cells.parquet"  # type: ignore[index]


@pytest.mark.parametrize("place", [0, 1, 40, 100_000, 450_000, 899_999])
def test_a_member_that_is_cut_begins_anew(site: Site, tmp_path: Path, place: int) -> None:
    site.files["/outs.zip"] = archive({"a.bin": DATA, "cells.parquet": NOISE, "z.bin": DATA})
    cut = [None, lambda handler: send_file(handler, site.files["/outs.zip"], cut_after=place)]
    site.script["/outs.zip"] = list(cut)
    fetch(tmp_path / "a", **zip_row(site, file="a.bin"))
    assert (tmp_path / "a").read_bytes() == NOISE
    ranges = [headers["Range"] for _, headers in site.requests if "=-" not in headers["Range"]]
    assert len(ranges) == 2
    assert ranges[0] == ranges[1]
    assert left(tmp_path) == ["a", "a.json"]


def test_member_in_a_folder_is_found_and_two_of_a_name_are_not(site: Site, tmp_path: Path) -> None:
    site.files["/outs.zip"] = archive({"outs/cells.parquet": DATA})
    fetch(tmp_path / "a", **zip_row(site))
    site.files["/outs.zip"] = archive({"x/cells.parquet": DATA, "y/cells.parquet": DATA})
    with pytest.raises(InputError, check=has_code("zip-member")):
        fetch(tmp_path / "b", **zip_row(site))
    with pytest.raises(InputError, check=has_code("zip-member")):
        fetch(tmp_path / "b", **zip_row(site, "cells.zarr"))


def test_archive_whose_members_point_outside_writes_nowhere_else(site: Site, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    site.files["/outs.zip"] = archive({"../evil": b"x", "/etc/evil": b"y", "../../cells.parquet": DATA})
    for member in ("../evil", "/etc/evil", "..%2Fevil"):
        with pytest.raises(InputError, check=has_code("zip-path")):
            fetch(inner / "a", **zip_row(site, member))
    with pytest.raises(InputError, check=has_code("zip-escape")):
        fetch(inner / "a", **zip_row(site))
    assert left(inner) == []
    assert left(tmp_path) == ["inner"]


def test_encrypted_archive(site: Site, tmp_path: Path) -> None:
    site.files["/outs.zip"] = archive({"sel/A1.tsv.gz": gzip.compress(b"x\ty\n" * 900), "b": NOISE}, "right")
    row = zip_row(site, "A1.tsv.gz", password="right")
    fetch(tmp_path / "a.tsv.gz", **{**row, "file": "A1.tsv.gz"})
    assert gzip.decompress((tmp_path / "a.tsv.gz").read_bytes()) == b"x\ty\n" * 900
    # A name without .gz wants what is inside.
    fetch(tmp_path / "a.tsv", **{**row, "file": "A1.tsv"})
    assert (tmp_path / "a.tsv").read_bytes() == b"x\ty\n" * 900


@pytest.mark.parametrize("password", ["wrong-one", ""])
def test_encrypted_archive_with_a_wrong_password(site: Site, tmp_path: Path, password: str) -> None:
    site.files["/outs.zip"] = archive({"cells.parquet": DATA}, "right")
    with pytest.raises(InputError, check=has_code("zip-password")) as caught:
        fetch(tmp_path / "a", **zip_row(site, password=password))
    assert "wrong-one" not in str(caught.value)
    assert "password" in caught.value.remedy
    assert left(tmp_path) == []


@pytest.mark.parametrize("password", ["", "right"])
def test_damaged_member(site: Site, tmp_path: Path, password: str) -> None:
    good = archive({"cells.parquet": NOISE, "b": DATA}, password)
    bad = bytearray(good)
    bad[400_000] ^= 0xFF
    site.files["/outs.zip"] = bytes(bad)
    with pytest.raises(InputError, check=has_code("zip-damaged")):
        fetch(tmp_path / "a", **zip_row(site, file="a.bin", password=password))
    assert left(tmp_path) == []


def test_archive_on_a_server_without_ranges(site: Site, tmp_path: Path) -> None:
    site.files["/outs.zip"] = archive({"cells.parquet": DATA})
    site.ranges = False
    with pytest.raises(InputError, check=has_code("zip-ranges")) as caught:
        fetch(tmp_path / "a", **zip_row(site))
    assert "mirror_dir" in caught.value.remedy
    assert len(site.requests) == 1


def test_archive_that_is_none_or_not_there(site: Site, tmp_path: Path) -> None:
    site.files["/outs.zip"] = b"<html>maintenance</html>" * 50
    with pytest.raises(InputError, check=has_code("zip-directory")):
        fetch(tmp_path / "a", **zip_row(site))
    with pytest.raises(InputError, check=has_code("refused")):
        fetch(tmp_path / "a", **zip_row(site, url=f"{site.host}/gone.zip#a"))
    assert site.paths().count("/gone.zip") == 1


# mirrors ---------------------------------------------------------------------------------------------------------


def test_mirrors_are_tried_in_order_and_must_give_the_same_file(site: Site, tmp_path: Path) -> None:
    site.files |= {"/wrong": DATA[:-1] + b"?", "/outs.zip": archive({"a.h5ad": DATA}, "right"), "/never": DATA}
    columns = {
        "url": f"{site.host}/gone",
        "mirrors": f"http {site.host}/wrong | zip_member {site.host}/outs.zip#a.h5ad | http {site.host}/never",
        "password": "right",
        "sha256": hashlib.sha256(DATA).hexdigest(),
    }
    fetch(tmp_path / "a", **columns)
    assert (tmp_path / "a").read_bytes() == DATA
    assert list(dict.fromkeys(site.paths())) == ["/gone", "/wrong", "/outs.zip"]
    assert left(tmp_path) == ["a"]
    site.files.clear()
    with pytest.raises(InputError, check=has_code("no-place")) as caught:
        fetch(tmp_path / "b", **columns)
    assert re.search(r"/gone: .*404.*/never", caught.value.problem)
