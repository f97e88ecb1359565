"""What lies outside: files to copy or to fetch, hosts, gates, tokens and weights."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from histoloom.hub import hub_host, is_commit
from histoloom.sources.fetch import original, where_to_copy
from histoloom.sources.registry import with_mirrors
from histoloom.sources.transfer import free_bytes
from histoloom.sources.web import USER_AGENT
from histoloom_operations.findings import FAIL, OK, WARN, Finding, format_list, gigabytes
from histoloom_operations.needs import Entry, Needs

_PROBE_TIMEOUT_S = (4, 6)
_SPARE_BYTES = 1 << 30
_NO_TOKEN = "there is no token (HF_TOKEN is empty and there is no login to the hub)"


def host_of(way: Entry) -> str:
    """Return scheme and host of one way to a file."""
    if way["downloader"] == "hub":
        return hub_host()
    parts = urlsplit(way["url"])
    return f"{parts.scheme}://{parts.netloc}"


def reachable(hosts: Iterable[str]) -> dict[str, bool]:
    """Tell of each host whether it answers at all, whatever it answers."""
    import requests

    def answers(host: str) -> bool:
        try:
            requests.head(host, timeout=_PROBE_TIMEOUT_S, headers={"User-Agent": USER_AGENT})
        except requests.RequestException:
            return False
        return True

    names = list(dict.fromkeys(hosts))
    if not names:
        return {}
    with ThreadPoolExecutor(max_workers=8) as pool:
        return dict(zip(names, pool.map(answers, names), strict=True))


def check_local(needs: Needs) -> list[Finding]:
    """Check files that must be here already, in the mirror or among the downloads."""
    findings = []
    for message in needs.unlisted[:1]:
        findings.append(Finding("raw files", FAIL, f"{len(needs.unlisted)} are on no list: {message}"))
    absent = [(entry, path) for entry, path in needs.mirrored if not path.is_file()]
    other = [
        str(path)
        for entry, path in needs.mirrored
        if path.is_file() and entry.get("bytes") and path.stat().st_size != int(entry["bytes"])
    ]
    for source in dict.fromkeys(entry["source"] for entry, _ in absent):
        lacking = [(entry, path) for entry, path in absent if entry["source"] == source]
        total = sum(entry["source"] == source for entry, _ in needs.mirrored)
        entry, path = lacking[0]
        message = (
            f"{len(lacking)} of {total} files are not in mirror_dir, the first is {path}: copy "
            f"{original(entry)} there, or remove `mirror_dir` to download. {entry.get('fallback') or ''}"
        )
        findings.append(Finding(f"mirror: {source}", FAIL, message.strip()))
    if other:
        findings.append(Finding("mirror", FAIL, f"not of the published size: {format_list(other)}; copy them again."))
    if needs.mirrored and not absent and not other:
        findings.append(Finding("mirror", OK, f"{len(needs.mirrored)} files are there; the run checks their checksums"))
    if needs.simulated:
        findings.append(Finding("simulated files", OK, f"the run makes {needs.simulated}"))
    if needs.present:
        findings.append(Finding("fetched already", OK, f"{len(needs.present)} files"))
    return findings


def check_downloads(needs: Needs, raw_dir: Path, alive: dict[str, bool]) -> list[Finding]:
    """Check what is to be fetched: its size against the disk, and that some host of each file answers."""
    free = free_bytes(raw_dir.absolute())
    if not needs.remote:
        return [Finding("to fetch", OK, "nothing"), Finding("disk", *_disk(0, 0, free, raw_dir))]
    sizes = [entry.get("bytes") or entry.get("about_bytes") for entry in needs.remote]
    known = sum(int(size) for size in sizes if size)
    unknown = sum(not size for size in sizes)
    sources = dict.fromkeys(entry["source"] for entry in needs.remote)
    amount = gigabytes(known) + (f" and {unknown} files whose size only their host states" if unknown else "")
    findings = [Finding("to fetch", OK, f"{len(needs.remote)} files of {', '.join(sources)}: {amount}")]
    findings.append(Finding("disk", *_disk(known, unknown, free, raw_dir)))
    for source in sources:
        entries = [entry for entry in needs.remote if entry["source"] == source]
        cut_off = [entry for entry in entries if not any(alive.get(host_of(way), False) for way in with_mirrors(entry))]
        hosts = list(dict.fromkeys(host_of(way) for entry in entries for way in with_mirrors(entry)))
        if cut_off:
            findings.append(
                Finding(
                    f"network: {source}",
                    FAIL,
                    f"no answer from {', '.join(hosts)}; {_lacking(cut_off)}: {where_to_copy(cut_off[0])}",
                )
            )
        else:
            silent = [host for host in hosts if not alive.get(host, False)]
            message = f"{', '.join(h for h in hosts if h not in silent)} answers"
            findings.append(
                Finding(
                    f"network: {source}",
                    WARN if silent else OK,
                    message + (f", {', '.join(silent)} does not" if silent else ""),
                )
            )
    return findings


def _lacking(entries: Sequence[Entry]) -> str:
    return "one file is lacking" if len(entries) == 1 else f"{len(entries)} files are lacking. The first"


def _disk(known: int, unknown: int, free: int, raw_dir: Path) -> tuple[str, str]:
    message = f"{gigabytes(free)} free at {raw_dir}"
    if known + _SPARE_BYTES > free:
        return FAIL, f"{message}, {gigabytes(known)} to fetch: free space, or set raw_dir to a folder on another disk."
    return (WARN, f"{message}; not all sizes are known") if unknown else (OK, message)


def check_gates(entries: Sequence[Entry], alive: dict[str, bool]) -> list[Finding]:
    """Check the token for gated repositories among the files to fetch."""
    findings = []
    gated = {entry["url"]: entry for entry in entries if entry["downloader"] == "hub" and entry.get("gate")}
    for url, entry in gated.items():
        repo = url.removeprefix("hf://")
        kind = "dataset" if repo.startswith("datasets/") else "model"
        state, message = access_to(repo.removeprefix("datasets/"), kind, alive)
        findings.append(
            Finding(f"gate: {entry['source']}", state, message + (f"; {entry['gate']}" if state == FAIL else ""))
        )
    return findings


def access_to(repo: str, kind: str, alive: dict[str, bool]) -> tuple[str, str]:
    """Return whether this machine's token opens a gated repository."""
    from huggingface_hub import HfApi, errors, get_token

    if not get_token():
        return FAIL, f"{repo} is gated, and {_NO_TOKEN}"
    if not alive.get(hub_host(), False):
        return WARN, f"{repo} is gated; there is a token, and the hub cannot be asked about it from here"
    try:
        HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None).auth_check(repo, repo_type=kind)
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "an error")
        return FAIL, f"{repo} is gated, and the hub answers {status} to this machine's token"
    except (OSError, errors.HTTPError) as error:  # type: ignore[attr-defined]
        return WARN, f"{repo} is gated; the hub did not answer about the token ({type(error).__name__})"
    return OK, f"the token opens {repo}"


def weights_of(spec: dict[str, Any]) -> str:
    """Return where an encoder's weights come from: none, random, hub or a path."""
    weights = str(spec["weights"])
    default = str(spec["card"]["default_weights"])
    return default if weights == "card" or default == "none" else weights


def check_weights(spec: dict[str, Any], alive: dict[str, bool]) -> Finding:
    """Check that an encoder's weights are here, or can be fetched."""
    subject, card, weights = f"encoder: {spec['name']}", spec["card"], weights_of(spec)
    if weights in {"none", "random"}:
        return Finding(subject, OK, "needs no weights" if weights == "none" else "random weights, from its seed")
    if weights == "path":
        return Finding(subject, FAIL, f"card '{card['name']}' is on no hub: give `weights:` a local file or folder.")
    if weights != "hub":
        is_here = Path(weights).exists()
        return Finding(
            subject, OK if is_here else FAIL, weights if is_here else f"no file {weights}: correct `weights:`."
        )
    from huggingface_hub import try_to_load_from_cache

    named, revision = card["checkpoint"]["file"], card["revision"]
    # A card may name several files, any of which will do.
    names = [named] if isinstance(named, str) else list(named or [])
    file = " or ".join(names)
    local = f"or set `weights:` of encoder '{spec['name']}' to a local copy of {file}."
    kind = card["hub_type"]
    cached = [try_to_load_from_cache(card["hub_id"], n, revision=revision, repo_type=kind) for n in names]
    if any(isinstance(path, str) for path in cached):
        return _pinned(subject, spec, f"{card['hub_id']} is in the hub's cache")
    if card.get("gate"):
        state, message = access_to(card["hub_id"], kind, alive)
        if state == FAIL:
            return Finding(
                subject, FAIL, f"{message}; accept the terms at {card['gate']}, put a read token in HF_TOKEN, {local}"
            )
    if not alive.get(hub_host(), False):
        return Finding(
            subject,
            FAIL,
            f"{card['hub_id']} is not in the hub's cache, and {hub_host()} does not answer: fetch it where there is a "
            f"network and share HF_HOME, {local}",
        )
    return _pinned(subject, spec, f"{card['hub_id']} will be fetched")


def _pinned(subject: str, spec: dict[str, Any], state: str) -> Finding:
    """Return a finding, with a note where the revision is a branch: its weights may change overnight."""
    card = spec["card"]
    if is_commit(card["revision"]):
        return Finding(subject, OK, f"{state}, pinned to commit {card['revision'][:12]}")
    message = f"NOT PINNED: '{card['revision']}' is a branch. `revision:` of encoder '{spec['name']}' takes a commit"
    return Finding(subject, WARN, f"{state}; {message}; the embedding's metadata tell which one was used.")
