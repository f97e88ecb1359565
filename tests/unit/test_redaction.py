"""Secrets stay out of logs, messages and artefacts, whatever a server or a library says."""

from __future__ import annotations

import json
import logging
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from histoloom.errors import InputError
from histoloom.jobs import job
from histoloom.redaction import plain, redact
from histoloom.sources.fetch import fetch_file
from loopback import Site

SECRET = "S3cr3tS3cr3tS3cr3t0123456789"
ALL_STATUSES = [*range(400, 432), 451, *range(500, 512), 599]


@pytest.mark.parametrize(
    "said",
    [
        f"GET /a?X-Amz-Signature={SECRET}&b=1 failed",
        f'HTTP Request: GET https://cdn.example/x/y.h5?Policy=a&Signature={SECRET} "HTTP/1.1 200 OK"',
        f"https://user:{SECRET}@host/a",
        f"ftp://{SECRET}@host/a",
        f"/path;jsessionid={SECRET}?x=1",
        f"https://host/p;jsessionid={SECRET}/q",
        f"https://host/login#access_token={SECRET}",
        f"api_key={SECRET}, and more",
        f"'api-key': '{SECRET}'",
        f'{{"token": "{SECRET}"}}',
        f"Authorization: Bearer {SECRET}",
        f"{{'authorization': 'Basic {SECRET}=='}}",
        f"password = {SECRET}",
        f"X-Auth-Token: {SECRET}",
        f"Set-Cookie: {SECRET}",
        f"hf_{SECRET}",
        f"ghp_{SECRET}0123456789",
        f"aws_secret_access_key={SECRET}",
    ],
)
def test_known_forms_of_secrets(said: str) -> None:
    assert SECRET not in redact(said)


@pytest.mark.parametrize(
    "said",
    [
        "put a read token in HF_TOKEN, or set `weights:` of the encoder to a local copy",
        "https://host/a/b.zip#member/c.h5 (3 bytes)",
        "is 'sampel' what you meant? use: sample; patient",
        "40 tokens: 3 kept",
        "results/tokens/a.h5: the signature table has 3 rows",
    ],
)
def test_what_is_no_secret_stays(said: str) -> None:
    assert redact(said) == said


def test_addresses_in_messages() -> None:
    assert plain("https://user:word@host/a;s=1/b?key=1#part") == "https://host/a/b#part"
    assert redact("at https://u:p@host/a.h5?key=1.") == "at https://host/a.h5?..."


def test_a_secret_of_the_environment_is_hidden_wherever_it_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_LAB_TOKEN", SECRET)
    with pytest.raises(SystemExit), job(tmp_path / "log", {}):
        logging.getLogger("httpx").info("plain text %s", SECRET)
        raise RuntimeError(f"the server said {SECRET}")
    log, err = (tmp_path / "log").read_text(), capsys.readouterr().err
    assert "plain text ..." in log
    assert "RuntimeError" in log
    assert SECRET not in log + err


def echo(status: int) -> object:
    """Answer with what was sent: in the reason, the headers, the body and a redirect's address."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        told = f"{handler.path} {handler.headers}".replace("\r\n", " ").replace("\n", " ")
        handler.send_response(status, told[:900])
        body = f"<html>{told} api_key={SECRET}</html>".encode()
        handler.send_header("X-Error-Message", told)
        handler.send_header("Set-Cookie", f"sid={SECRET}")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = True

    return answer


@pytest.mark.parametrize("status", [200, *ALL_STATUSES])
def test_a_server_that_echoes_what_it_was_sent(
    site: Site, tmp_path: Path, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    user = f"someone:{SECRET}@"
    address = site.host.replace("://", f"://{user}") + f"/f.h5;jsessionid={SECRET}?Signature={SECRET}"
    row = {"source": "s", "file": "f.h5", "url": address, "licence": "l", "citation": "c"}
    site.script[f"/f.h5;jsessionid={SECRET}"] = [echo(status)] * 3  # type: ignore[list-item]
    with pytest.raises(SystemExit), job(tmp_path / "log", {"x": tmp_path / "f.h5"}) as out:
        fetch_file(entry=row, mirror=None, out=out["x"], tries=2, backoff_s=0.0)
    said = capsys.readouterr().err
    left = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()).decode(errors="replace")
    assert SECRET not in said + left
    assert "Traceback" not in said
    if status != 200:
        assert str(status) in said


def test_the_record_of_a_fetched_file_has_a_plain_address(site: Site, tmp_path: Path) -> None:
    site.files["/f.txt"] = b"content"
    row = {"source": "s", "file": "f.txt", "url": f"{site.host}/f.txt?key={SECRET}", "licence": "l", "citation": "c"}
    fetch_file(entry=row, mirror=None, out=tmp_path / "f.txt")
    assert json.loads((tmp_path / "f.txt.json").read_text())["url"] == f"{site.host}/f.txt"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 410, 429, 500, 502, 503, 504])
def test_a_hub_that_fails_is_not_answered_with_terms(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import requests
    from huggingface_hub import errors

    from histoloom.hub import hub_error

    monkeypatch.setenv("HF_TOKEN", SECRET)
    answer = requests.Response()
    answer.status_code = status
    failed = errors.HfHubHTTPError(f"{status} for a request with Bearer {SECRET}", response=answer)
    wrapped = errors.LocalEntryNotFoundError("not in the cache")
    wrapped.__cause__ = failed
    for error in (failed, wrapped):
        said: InputError = hub_error(error, "card", access="accept the terms", instead="or use a copy")
        assert SECRET not in str(said)
        assert ("accept the terms" in str(said)) == (status in {401, 403})
        assert str(status) in said.problem


def test_the_real_client_meets_an_echoing_hub(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import time

    from huggingface_hub import constants

    from histoloom.embeddings.weights import fetch_from_hub

    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    for name, value in (("HF_HUB_CACHE", str(tmp_path / "hub")), ("ENDPOINT", site.host)):
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", site.host + "/{repo_id}/resolve/{revision}/{filename}"
    )
    card = {"name": "c", "hub_id": "lab/model", "revision": "main", "checkpoint": {"file": "w.safetensors"}}
    site.script["/lab/model/resolve/main/w.safetensors"] = [echo(503)] * 20  # type: ignore[list-item]
    with pytest.raises(SystemExit), job(tmp_path / "log", {}):
        fetch_from_hub(card)
    said = capsys.readouterr().err + (tmp_path / "log").read_text()
    assert "the hub answered 503" in said
    assert "accept the terms" not in said
    assert SECRET not in said
    assert any(SECRET in headers.get("Authorization", "") for _, headers in site.requests)
