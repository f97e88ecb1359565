"""Downloaders: each kind of host, played on 127.0.0.1 as its own API speaks."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from download_inputs import DATA, entry, fetch, left, record

from error_codes import has_code
from histoloom.errors import InputError
from histoloom.jobs import job
from histoloom.schemas import load_schema
from histoloom.sources import LISTS, registry_entry
from histoloom.sources.fetch import fetch_file
from histoloom.sources.registry import DOWNLOADERS, find_entry, is_pattern, load_registry, with_mirrors
from loopback import Site, play_hub, redirect, running_site, status

TOKEN = "hf_VerySecretToken123"


# the hub ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("HF_ENDPOINT", site.host)
    play_hub(site, "Lab/set", {"st/TENX9.h5ad": DATA, "st/TENX95.h5ad": DATA[:-7], "metadata/TENX9.json": b'{"id": 9}'})
    return site


def hub_entry(file: str, **columns: str) -> dict[str, str]:
    return {
        "downloader": "hub",
        "url": "hf://datasets/Lab/set",
        "file": file,
        "gate": "accept the terms first",
        **columns,
    }


def test_hub_file_with_the_hubs_own_checksum_and_commit(hub: Site, tmp_path: Path) -> None:
    out = tmp_path / "a.h5ad"
    fetch(out, **hub_entry("st/TENX9.h5ad"))
    assert out.read_bytes() == DATA
    found = record(out)
    assert found["sha256"] == hashlib.sha256(DATA).hexdigest()
    assert found["version"] == {"repository": "Lab/set", "revision": "main", "commit": "c" * 40}
    assert all("Authorization" not in {k.title() for k in headers} for _, headers in hub.requests)


def test_hub_small_file_goes_by_its_git_name_and_may_be_json(hub: Site, tmp_path: Path) -> None:
    fetch(tmp_path / "a.json", **hub_entry("metadata/TENX9.json"))
    assert json.loads((tmp_path / "a.json").read_text()) == {"id": 9}
    hub.files["/datasets/Lab/set/resolve/" + "c" * 40 + "/metadata/TENX9.json"] = b'{"id": 8}'
    with pytest.raises(InputError, check=has_code("other-bytes")):
        fetch(tmp_path / "b.json", **hub_entry("metadata/TENX9.json"))


def test_hub_wrong_bytes_of_the_right_length(hub: Site, tmp_path: Path) -> None:
    hub.files["/datasets/Lab/set/resolve/" + "c" * 40 + "/st/TENX9.h5ad"] = DATA[:-1] + b"?"
    with pytest.raises(InputError, check=has_code("other-bytes")):
        fetch(tmp_path / "a.h5ad", **hub_entry("st/TENX9.h5ad"))
    assert left(tmp_path) == []


def test_hub_missing_file_names_the_samples_files_and_no_others(hub: Site, tmp_path: Path) -> None:
    hub.script["/datasets/Lab/set/resolve/main/wsis/TENX9.tif"] = [status(404, X_Error_Code="EntryNotFound")]
    with pytest.raises(InputError, check=has_code("hub-file")) as caught:
        fetch(tmp_path / "a.tif", **hub_entry("wsis/TENX9.tif"))
    assert "st/TENX9.h5ad" in str(caught.value)
    assert "TENX95" not in str(caught.value)


def test_hub_missing_revision(hub: Site, tmp_path: Path) -> None:
    hub.script["/datasets/Lab/set/resolve/v9/st/TENX9.h5ad"] = [status(404, X_Error_Code="RevisionNotFound")]
    with pytest.raises(InputError, check=has_code("hub-revision")):
        fetch(tmp_path / "a.h5ad", **hub_entry("st/TENX9.h5ad", revision="v9"))


@pytest.mark.parametrize("number", [401, 403])
def test_hub_gate_explains_what_to_accept(hub: Site, tmp_path: Path, number: int) -> None:
    path = "/datasets/Lab/set/resolve/" + "c" * 40 + "/st/TENX9.h5ad"
    hub.script[path] = [status(number, X_Error_Code="GatedRepo")] * 5
    with pytest.raises(InputError, check=has_code("refused")) as caught:
        fetch(tmp_path / "a.h5ad", **hub_entry("st/TENX9.h5ad"))
    assert caught.value.remedy == "accept the terms first"
    assert hub.paths().count(path) == 1


def test_hub_api_refusal_says_that_there_is_no_token(hub: Site, tmp_path: Path) -> None:
    hub.script["/datasets/Lab/set/resolve/main/st/TENX9.h5ad"] = [status(401, X_Error_Code="GatedRepo")]
    with pytest.raises(InputError, check=has_code("hub-access")) as caught:
        fetch(tmp_path / "a.h5ad", **hub_entry("st/TENX9.h5ad"))
    assert "there is no token" in caught.value.problem
    assert caught.value.remedy == "accept the terms first"


def test_hub_api_that_is_busy_is_asked_again(hub: Site, tmp_path: Path) -> None:
    hub.script["/datasets/Lab/set/resolve/main/st/TENX9.h5ad"] = [status(503)]
    fetch(tmp_path / "a.h5ad", **hub_entry("st/TENX9.h5ad"))
    assert (tmp_path / "a.h5ad").read_bytes() == DATA


def test_token_reaches_the_hub_alone_and_no_log(hub: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    path = "/datasets/Lab/set/resolve/" + "c" * 40 + "/st/TENX9.h5ad"
    with running_site() as store:
        # The hub sends us on to a storage with a signed link; the storage breaks down, with our header in its text.
        hub.script[path] = [redirect(f"{store.host}/blob?X-Amz-Signature=SIGNATURE")] * 3
        store.files["/blob"] = DATA
        store.script["/blob"] = [status(500, f"Authorization: Bearer {TOKEN}".encode())] * 3
        with pytest.raises(SystemExit), job(tmp_path / "log", {"file": tmp_path / "a.h5ad"}) as out:
            fetch(out["file"], **hub_entry("st/TENX9.h5ad"))
        assert any(TOKEN in headers.get("Authorization", "") for p, headers in hub.requests if path in p)
        assert [headers.get("Authorization") for _, headers in store.requests] == [None, None]
        store.script.clear()
        hub.script[path] = [redirect(f"{store.host}/blob?X-Amz-Signature=SIGNATURE")]
        with job(tmp_path / "log2", {"file": tmp_path / "a.h5ad"}) as out:
            fetch(out["file"], **hub_entry("st/TENX9.h5ad"))
    told = (tmp_path / "log").read_text() + (tmp_path / "log2").read_text() + json.dumps(record(tmp_path / "a.h5ad"))
    assert "500" in told
    for secret in (TOKEN, "SIGNATURE", "VerySecret"):
        assert secret not in told


# Mendeley --------------------------------------------------------------------------------------------------------


def listing(site: Site, body: bytes = DATA, name: str = "spots_BT1_C1.csv.gz") -> dict[str, str]:
    site.files["/public-files/1/file_downloaded"] = body
    site.pages["/public-api/datasets/29/files"] = [
        {
            "filename": name,
            "id": "1",
            "size": len(body),
            "content_details": {
                "sha256_hash": hashlib.sha256(body).hexdigest(),
                "size": len(body),
                "download_url": f"{site.host}/public-files/1/file_downloaded",
            },
        }
    ]
    return {"downloader": "mendeley", "url": f"{site.host}/public-api/datasets/29/files?folder_id=root&version=5"}


def test_mendeley_file_by_its_listing(site: Site, tmp_path: Path) -> None:
    fetch(tmp_path / "a", **listing(site), file="spots_BT1_C1.csv.gz")
    assert (tmp_path / "a").read_bytes() == DATA
    assert "version=5" in site.requests[0][0]
    assert record(tmp_path / "a")["sha256"] == hashlib.sha256(DATA).hexdigest()


def test_mendeley_wrong_name_is_told_with_the_nearest(site: Site, tmp_path: Path) -> None:
    with pytest.raises(InputError, check=has_code("mendeley-file")) as caught:
        fetch(tmp_path / "a", **listing(site), file="spots_BC1_C1.csv.gz")
    assert "spots_BT1_C1" in caught.value.problem


def test_mendeley_error_in_json_under_200_is_an_error(site: Site, tmp_path: Path) -> None:
    row = listing(site)
    site.script["/public-files/1/file_downloaded"] = [status(200, b'{"message": "try later"}')] * 9
    with pytest.raises(InputError, check=has_code("other-bytes")):
        fetch(tmp_path / "a", **row, file="spots_BT1_C1.csv.gz")
    site.script["/public-files/1/file_downloaded"] = [status(200, b'{"message": "try later"}')]
    fetch(tmp_path / "a", **row, file="spots_BT1_C1.csv.gz")
    site.pages["/public-api/datasets/29/files"] = {"message": "Internal error"}
    with pytest.raises(InputError, check=has_code("mendeley-listing")):
        fetch(tmp_path / "b", **row, file="spots_BT1_C1.csv.gz")
    site.script["/public-api/datasets/29/files"] = [status(200, b"<html>")] * 9
    with pytest.raises(InputError, check=has_code("api-answer")):
        fetch(tmp_path / "b", **row, file="spots_BT1_C1.csv.gz")
    assert left(tmp_path) == ["a", "a.json"]


# CELLxGENE -------------------------------------------------------------------------------------------------------


def dataset(site: Site, version: str = "v-2", size: int = len(DATA)) -> dict[str, str]:
    site.files[f"/{version}.h5ad"] = DATA
    answer = {
        "dataset_id": "d",
        "dataset_version_id": version,
        "published_at": "2023-01-01T00:00:00",
        "revised_at": "2024-02-03T04:05:06",
        "title": "all cells",
        "assets": [
            {"filetype": "H5AD", "filesize": size, "url": f"{site.host}/{version}.h5ad"},
            {"filetype": "RDS", "filesize": 1, "url": f"{site.host}/x.rds"},
        ],
    }
    site.pages["/curation/v1/collections/c/datasets/d"] = answer
    site.pages[f"/curation/v1/dataset_versions/{version}"] = answer
    return {"downloader": "cellxgene", "url": f"{site.host}/curation/v1/collections/c/datasets/d"}


def test_cellxgene_version_and_date_are_recorded(site: Site, tmp_path: Path) -> None:
    fetch(tmp_path / "a.h5ad", **dataset(site))
    found = record(tmp_path / "a.h5ad")
    assert (tmp_path / "a.h5ad").read_bytes() == DATA
    assert found["version"] == {"dataset_version_id": "v-2", "dated": "2024-02-03T04:05:06", "title": "all cells"}
    assert found["sha256"] == hashlib.sha256(DATA).hexdigest()


def test_cellxgene_pinned_version_asks_for_that_version(site: Site, tmp_path: Path) -> None:
    row = dataset(site, "v-1")
    dataset(site, "v-2")
    fetch(tmp_path / "a.h5ad", **row, revision="v-1")
    assert site.paths() == ["/curation/v1/dataset_versions/v-1", "/v-1.h5ad"]
    site.pages["/curation/v1/dataset_versions/v-1"]["dataset_version_id"] = "v-2"
    with pytest.raises(InputError, check=has_code("cellxgene-version")):
        fetch(tmp_path / "b.h5ad", **row, revision="v-1")


def test_cellxgene_size_or_kind_that_is_not_the_stated_one(site: Site, tmp_path: Path) -> None:
    with pytest.raises(InputError, check=has_code("other-bytes")):
        fetch(tmp_path / "a.h5ad", **dataset(site, size=len(DATA) + 5))
    row = dataset(site)
    site.files["/v-2.h5ad"] = b"x" * len(DATA)
    with pytest.raises(InputError, check=has_code("other-bytes")):
        fetch(tmp_path / "a.h5ad", **row)
    site.pages["/curation/v1/collections/c/datasets/d"]["assets"] = []
    with pytest.raises(InputError, check=has_code("cellxgene-file")):
        fetch(tmp_path / "a.h5ad", **row)
    assert left(tmp_path) == []


# copies by hand ------------------------------------------------------------------------------------------------


def test_a_copy_by_hand_is_checked_against_the_record_of_an_earlier_fetch(site: Site, tmp_path: Path) -> None:
    copy = tmp_path / "mirror" / "src" / "a.h5ad"
    copy.parent.mkdir(parents=True)
    row = entry(**dataset(site))
    fetch_file(entry=row, mirror=None, out=copy)
    out = tmp_path / "out.h5ad"
    fetch_file(entry=row, mirror=tmp_path / "mirror", out=out)
    assert out.is_symlink()
    assert record(out) == record(copy)
    copy.write_bytes(DATA[:-1] + b"?")
    with pytest.raises(InputError, check=has_code("mirror-bytes")):
        fetch_file(entry=row, mirror=tmp_path / "mirror", out=out)
    # Without the record only its beginning can be looked at.
    copy.with_name("a.h5ad.json").unlink()
    fetch_file(entry=row, mirror=tmp_path / "mirror", out=out)
    copy.write_bytes(b"<html>" * 9)
    with pytest.raises(InputError, check=has_code("mirror-bytes")):
        fetch_file(entry=row, mirror=tmp_path / "mirror", out=out)


# the lists -------------------------------------------------------------------------------------------------------


def test_every_row_of_every_list_has_downloaders_that_exist() -> None:
    lists = sorted(LISTS.glob("*.tsv"))
    assert {"her2st", "stnet", "hest", "xenium", "hbca"} <= {path.stem for path in lists}
    for path in lists:
        for row in load_registry(path).values():
            for way in with_mirrors(row):
                assert way["downloader"] in DOWNLOADERS
                assert way["url"].startswith(("https://", "hf://")), path
                assert (way["downloader"] == "zip_member") == ("#" in way["url"]), path
            if row["downloader"] == "hub":
                assert "HF_TOKEN" in row["gate"]


def test_the_manual_explains_every_column_of_a_list(repo: Path) -> None:
    text = (repo / "config" / "README.md").read_text()
    section = text[text.index("## Where raw files come from") : text.index("## Labels")]
    told = set(
        re.findall(r"`([a-z0-9_]+)`", "".join(line.split("|")[1] for line in section.splitlines() if line[:3] == "| `"))
    )
    assert told == set(load_schema("files")["properties"])
    assert all(f"`{downloader}`" in section for downloader in DOWNLOADERS)


def test_her2st_has_zenodo_behind_github() -> None:
    image = registry_entry("her2st", "data/ST-imgs/C/C2/5714_HE_BT_C2.jpg")
    assert [way["url"].rpartition("/")[2] for way in with_mirrors(image)] == ["5714_HE_BT_C2.jpg", "C2.jpg"]
    assert image["password"]
    spots = registry_entry("her2st", "data/ST-spotfiles/C2_selection.tsv")
    assert with_mirrors(spots)[1]["url"].endswith("spot-selections.zip?download=1#C2_selection.tsv.gz")


def test_patterns_serve_every_sample() -> None:
    assert registry_entry("hest", "st/TENX95.h5ad")["downloader"] == "hub"
    row = registry_entry("stnet", "HE_BT23287_C1.jpg")
    assert (row["downloader"], with_mirrors(row)[1]["url"].rpartition("#")[2]) == ("mendeley", "HE_BT23287_C1.jpg")
    row = registry_entry("cellxgene", "11-aa/22-bb.h5ad")
    assert row["url"].endswith("/curation/v1/collections/11-aa/datasets/22-bb")
    with pytest.raises(InputError, check=has_code("files-unlisted")):
        registry_entry("hest", "videos/TENX95.mp4")


def test_xenium_breast_members_have_their_md5() -> None:
    row = registry_entry("xenium", "Xenium_Prime_Breast_Cancer_FFPE_outs/cell_feature_matrix.h5")
    assert row["md5"] == "f254faa26200511463b1dc3b2e7b5c87"
    assert row["url"].endswith("Xenium_Prime_Breast_Cancer_FFPE_outs.zip#cell_feature_matrix.h5")


@pytest.mark.parametrize(
    ("rows", "code", "word"),
    [
        ("file\turl\tlicence\tcitation\tdownloader\na\tu\tl\tc\tback\n", "schema-value", "'back'"),
        ("file\turl\tlicence\tcitation\tdownloader\tcolour\na\tu\tl\tc\thub\tred\n", "schema-unknown-key", "'colour'"),
        ("file\turl\tlicence\tcitation\tmd5\tbytes\na\tu\tl\tc\t1\t1e9\n", "schema-value", "'1e9'"),
        ("file\turl\tlicence\tcitation\tmd5\na*\tu\tl\tc\t1\n", "files-pattern", "a*"),
        ("file\tdownloader\turl\tlicence\tcitation\n/a\thub\tu\tl\tc\n", "schema-value", "'/a'"),
    ],
)
def test_bad_rows(tmp_path: Path, rows: str, code: str, word: str) -> None:
    (tmp_path / "x.tsv").write_text(rows)
    with pytest.raises(InputError, check=has_code(code)) as caught:
        load_registry(tmp_path / "x.tsv")
    assert word in str(caught.value)


def test_an_address_keeps_its_fragment_and_comments_are_lines(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text(
        "# of what\nfile\tdownloader\turl\tlicence\tcitation\n*.h5\tzip_member\thttp://h/{name}#m\tl\tc\n"
    )
    known = load_registry(tmp_path / "x.tsv")
    assert is_pattern("*.h5")
    found = find_entry(known, "in/a.h5")
    assert found is not None
    assert found["url"] == "http://h/a.h5#m"
    assert known["*.h5"]["url"] == "http://h/{name}#m"
    with pytest.raises(InputError, check=has_code("files-mirror")):
        with_mirrors({**found, "mirrors": "http://only"})
