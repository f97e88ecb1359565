"""The stage `embeddings`: tiles of several sections through frozen encoders, one alone or several in one pass."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np

from histoloom.artefacts import read_metadata
from histoloom.devices import lease_device
from histoloom.efficiency import Meter
from histoloom.embeddings.artefact import card_content, write_embeddings
from histoloom.embeddings.cards import Encoder, build_encoder, full_spec
from histoloom.embeddings.progress import Progress
from histoloom.embeddings.sections import Section, load_part, open_sections
from histoloom.embeddings.sweep import Member, reads_counts, sweep
from histoloom.embeddings.tokens import saved
from histoloom.errors import InputError
from histoloom.genes import BY_ID, BY_NAME, GeneMatcher
from histoloom.identity import canonical_json, make_identity, sha256_file
from histoloom.tiles.spec import TileSpec, same_spec

logger = logging.getLogger(__name__)

WHOLE = "whole.h5"
"""Name of an encoder's finished embedding in its scratch, between the pass and whoever takes it."""


def embed_batch(
    *,
    cohort: str,
    batch: str,
    samples: Sequence[Path],
    slides: Sequence[Path],
    tiles: Sequence[Path],
    spec: Mapping[str, Any],
    out: Path,
    efficiency: Path,
    scratch: Path,
    threads: int,
    device: str = "auto",
    genes: Path | None = None,
) -> None:
    """Embed the kept tiles of several sections.

    Parameters
    ----------
    cohort, batch
        Names.
    samples, slides, tiles
        Sections (h5ad), slide images and tables of tiles (parquet), in the same order.
    spec
        Encoder entry with ``card`` (full), ``tiles_spec`` and ``name``.
    out
        h5 to write: features, coords, sample, obs_id; order of sections, then of tiles.
    efficiency
        JSON to write: seconds, peak memory, tiles/s.
    scratch
        Folder for finished sections; what fits is used again after a kill, all is removed at the end.
    threads
        Threads or worker processes.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda[:n]"``.
    genes
        For encoders of expression: table through which genes meet their vocabulary (`histoloom.genes`); None: by name.

    Raises
    ------
    InputError
        If tiles, weights or pixels cannot be used, or a feature is not finite.
    """
    spec = full_spec(spec)
    sections = open_sections(cohort, samples, slides, tiles, spec["tiles_spec"])
    with ExitStack() as stack:
        device = stack.enter_context(lease_device(_device_choice([spec], device)))
        meter = Meter("embeddings", device, threads)
        member = _member(stack, spec, sections, scratch, threads=threads, device=device, genes=genes)
        progress = Progress(f"{cohort}/{batch}", sum(map(len, sections)), member.encoder.device)
        sweep(sections, [member], progress, threads=threads)
        _write(out, efficiency, cohort, batch, sections, member, progress, meter)
    shutil.rmtree(scratch, ignore_errors=True)


def embed_together(
    *,
    cohort: str,
    batch: str,
    samples: Sequence[Path],
    slides: Sequence[Path],
    tiles: Sequence[Path],
    specs: Sequence[Mapping[str, Any]],
    finished: Mapping[str, tuple[Path, Path]],
    scratch: Mapping[str, Path],
    out: Path,
    threads: int,
    device: str = "auto",
) -> None:
    """Embed the kept tiles of several sections with several encoders, reading every tile once.

    An encoder whose finished embedding is what this run would make is left alone: it is handed over as it is, without
    loading its weights. So one more encoder costs a pass of its own, not one of all.

    Parameters
    ----------
    cohort, batch, samples, slides, tiles, threads, device
        As of `embed_batch`.
    specs
        Encoder entries, all on the same tile spec.
    finished
        Encoder -> where its embedding and efficiency record lie once it is done; they need not exist.
    scratch
        Encoder -> folder for its finished sections, and for what `take_over` takes.
    out
        JSON to write: the identity of each encoder's embedding.

    Raises
    ------
    InputError
        As of `embed_batch`; or if the encoders do not share a tile spec.
    """
    full = [full_spec(spec) for spec in specs]
    for spec in full[1:]:
        if not same_spec(spec["tiles_spec"], full[0]["tiles_spec"]):
            told = f"encoders '{full[0]['name']}' and '{spec['name']}' see other tiles."
            raise InputError(f"{cohort}/{batch}", told, "put encoders of one tile spec into a pass.")
    sections = open_sections(cohort, samples, slides, tiles, full[0]["tiles_spec"])
    identities, todo = {}, []
    for spec in full:
        name = spec["name"]
        known = _as_wanted(finished[name][0], cohort, batch, sections, spec)
        if known is None:
            todo.append(spec)
        else:
            identities[name] = known
            _lay(finished[name], scratch[name])
            logger.info("%s: finished, and what this run would make; not embedded again", name)
    for spec in todo:
        # It may be a second name of a finished file, which must not be written into.
        for path in _waiting(scratch[spec["name"]]):
            path.unlink(missing_ok=True)
    if todo:
        with ExitStack() as stack:
            device = stack.enter_context(lease_device(_device_choice(todo, device)))
            meter = Meter("embeddings", device, threads)
            # Those without weights first: they start worker processes, before torch has threads or a GPU.
            todo.sort(key=lambda spec: spec["card"]["default_weights"] != "none")
            members = [_member(stack, s, sections, scratch[s["name"]], threads=threads, device=device) for s in todo]
            on_gpu = [m for m in members if m.on_gpu] or members
            progress = Progress(f"{cohort}/{batch}", sum(map(len, sections)), on_gpu[0].encoder.device)
            sweep(sections, members, progress, threads=threads)
            for member in members:
                whole, record = _waiting(member.scratch)
                _write(whole, record, cohort, batch, sections, member, progress, meter, shared_by=len(members))
                identities[member.spec["name"]] = read_metadata(whole)["identity"]["sha256"]
        for member in members:
            for part in member.scratch.glob("*.npy"):
                part.unlink()
    params = {"cohort": cohort, "samples": [s.sample for s in sections]}
    manifest = {
        "identity": make_identity("embeddings.pass", params, identities),
        "embeddings": {spec["name"]: identities[spec["name"]] for spec in full},
    }
    Path(out).write_text(json.dumps(manifest, indent=1) + "\n")


def take_over(*, spec: Mapping[str, Any], manifest: Path, scratch: Path, out: Path, efficiency: Path) -> None:
    """Give an encoder's embedding, which a pass has made, its place; the caller removes `scratch` afterwards.

    Parameters
    ----------
    spec
        Encoder entry.
    manifest
        The pass's JSON.
    scratch
        The encoder's folder of that pass.
    out, efficiency
        h5 and JSON to write.

    Raises
    ------
    InputError
        If the pass did not make it, or made it from another entry.
    """
    spec = full_spec(spec)
    wanted = json.loads(Path(manifest).read_text())["embeddings"].get(spec["name"])
    whole, record = _waiting(scratch)
    if wanted is None or not whole.is_file() or not record.is_file():
        what = "was not asked for" if wanted is None else "is not there any more"
        raise InputError(manifest, f"the embedding of '{spec['name']}' {what}.", "run the pass again.")
    facts = read_metadata(whole)
    if facts["identity"]["sha256"] != wanted or canonical_json(facts["card"]) != canonical_json(spec["card"]):
        raise InputError(whole, "was not made by this pass with the present config.", "run the pass again.")
    _link(whole, out)
    _link(record, efficiency)


def _waiting(scratch: Path) -> tuple[Path, Path]:
    return scratch / WHOLE, (scratch / WHOLE).with_suffix(".json")


def _lay(finished: tuple[Path, Path], scratch: Path) -> None:
    """Put a finished embedding and its record where `take_over` looks for them; a second name, not a copy."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    for source, target in zip(finished, _waiting(scratch), strict=True):
        if source.is_file():
            _link(source, target)


def _link(source: Path, target: Path) -> None:
    """Give a file another name; a copy where the file system has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _member(
    stack: ExitStack,
    spec: Mapping[str, Any],
    sections: Sequence[Section],
    scratch: Path,
    *,
    threads: int,
    device: str,
    genes: Path | None = None,
) -> Member:
    job = {**spec, "tiles_in_job": sum(map(len, sections))}
    encoder = stack.enter_context(closing(build_encoder(job, threads=threads, device=device)))
    if reads_counts(encoder):
        spec = {**spec, "genes": {"matched_by": BY_ID if genes else BY_NAME, "table": genes and sha256_file(genes)}}
        encoder.gene_matcher = GeneMatcher(genes)  # type: ignore[attr-defined]
    return Member(spec, encoder, [_part_identity(section, spec, encoder) for section in sections], scratch)


def _write(
    out: Path,
    efficiency: Path,
    cohort: str,
    batch: str,
    sections: Sequence[Section],
    member: Member,
    progress: Progress,
    meter: Meter,
    shared_by: int = 1,
) -> None:
    """Put an encoder's parts together, and write its record."""
    encoder = member.encoder
    encoding = max(time.perf_counter() - progress.started, 1e-9)
    more: dict[str, Any] = {
        "encoding_seconds": round(encoding, 3),
        "items_resumed": progress.total - member.tiles,
        "items_per_s": round(member.tiles / encoding, 2),
        "waited_share": round(progress.waited_s / encoding, 3),
        "batch_size": getattr(encoder, "batch_size", encoder.chunk),
        "precision": encoder.precision,
    }
    if shared_by > 1:
        more |= {"encoders_in_pass": shared_by, "encoder_seconds": round(member.seconds, 3)}
    record = meter.record(member.tiles, **more)
    parts = [load_part(member.scratch, s, i, encoder.dim) for s, i in zip(sections, member.identities, strict=True)]
    write_embeddings(
        out,
        features=[part for part in parts if part is not None],
        coords=np.concatenate([s.centres for s in sections]),
        sample=[s.sample for s in sections for _ in range(len(s))],
        obs_id=[str(i) for s in sections for i in s.obs_id],
        metadata=_metadata(cohort, batch, sections, member.spec, _facts(encoder)),
    )
    Path(efficiency).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")


def _device_choice(specs: Sequence[Mapping[str, Any]], device: str) -> str:
    """Return the device to lease: encoders without weights compute on the CPU."""
    return device if any(spec["card"]["default_weights"] != "none" for spec in specs) else "cpu"


def _facts(encoder: Encoder) -> dict[str, Any]:
    """Return what only the encoder knows of its embedding."""
    return {key: getattr(encoder, key) for key in ("revision", "weights_sha256", "dim", "feature_names")}


def _same_weights(spec: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    """Whether an embedding was made with the weights that its entry means now; told without building a model."""
    if spec["card"]["default_weights"] == "none":
        return facts["weights_sha256"] is None
    from histoloom.embeddings.weights import file_hash, random_revision, resolve

    path = resolve(spec)
    if path is None:
        return bool(facts["revision"] == random_revision(spec))
    return path.is_file() and bool(facts["weights_sha256"] == file_hash(path))


def _as_wanted(path: Path, cohort: str, batch: str, sections: Sequence[Section], spec: Mapping[str, Any]) -> str | None:
    """Return the identity of a finished embedding if it is what a run with this entry would make, else None."""
    if not Path(path).is_file():
        return None
    try:
        facts = read_metadata(path)
    except (OSError, KeyError, ValueError):
        return None
    if not facts or not _same_weights(spec, facts):
        return None
    wanted = _metadata(cohort, batch, sections, spec, facts)
    return str(facts["identity"]["sha256"]) if canonical_json(facts) == canonical_json(wanted) else None


def _metadata(
    cohort: str, batch: str, sections: Sequence[Section], spec: Mapping[str, Any], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Return an embedding's metadata; `facts` are the encoder's own (see `_facts`)."""
    tiles_spec = TileSpec.from_dict(spec["tiles_spec"]).as_dict()
    inputs = {f"tiles.{s.sample}": s.identity for s in sections}
    params = {**_content(spec, facts["weights_sha256"]), "cohort": cohort, "samples": [s.sample for s in sections]}
    return {
        "cohort": cohort,
        "batch": batch,
        "samples": [s.sample for s in sections],
        "n_tiles": [len(s) for s in sections],
        "card": spec["card"],
        "revision": facts["revision"],
        "weights_sha256": facts["weights_sha256"],
        "dim": facts["dim"],
        "feature_names": facts["feature_names"],
        "tiles_spec": tiles_spec,
        "encoder": spec["name"],
        **({"genes_matched_by": spec["genes"]["matched_by"]} if "genes" in spec else {}),
        **({"tokens": {**spec["tokens"], **saved(sections, spec["tokens"])}} if spec["tokens"] else {}),
        "identity": make_identity("embeddings", params, inputs),
    }


def _content(spec: Mapping[str, Any], weights_sha256: str | None) -> dict[str, Any]:
    """Return what decides an embedding: not its name, nor where weights lie, batch size, threads or device."""
    return {
        "card": card_content(spec["card"]),
        "weights_sha256": weights_sha256,
        "upsample": spec["upsample"],
        **({"tokens": spec["tokens"]} if spec["tokens"] else {}),
        **({"genes": spec["genes"]} if "genes" in spec else {}),
        "tiles_spec": TileSpec.from_dict(spec["tiles_spec"]).as_dict(),
    }


def _part_identity(section: Section, spec: Mapping[str, Any], encoder: Encoder) -> str:
    params = {**_content(spec, encoder.weights_sha256), "precision": encoder.precision}
    return str(make_identity("embeddings.part", params, {"tiles": section.identity})["sha256"])
