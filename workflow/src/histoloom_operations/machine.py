"""What this machine is: processors, GPU, programs and packages."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from histoloom_operations.findings import FAIL, OK, WARN, Finding, format_list

_LITTLE_GPU_MB = 8000
_LITTLE_MEMORY_GB = 8
_SLURM = ("sbatch", "squeue", "sacct", "scancel")


def check_machine() -> Finding:
    """Tell processors and memory; the largest jobs ask for 8 GB."""
    import psutil

    memory = psutil.virtual_memory().total / 1e9
    message = f"{psutil.cpu_count()} cores, {memory:.0f} GB memory, Python {platform.python_version()}"
    return Finding("machine", OK if memory >= _LITTLE_MEMORY_GB else WARN, message)


def check_gpu(wanting: Sequence[str]) -> Finding:
    """Tell GPUs and their memory; without one, `wanting` run on the CPU."""
    devices = gpus()
    if not devices:
        jobs = f"; these run on the CPU, slowly: {format_list(wanting)}" if wanting else "; no job asks for one"
        return Finding("gpu", WARN if wanting else OK, f"none{jobs}")
    message = ", ".join(f"{name} with {free:,} of {total:,} MB free" for name, total, free in devices)
    import torch

    if not torch.cuda.is_available():
        return Finding("gpu", WARN, f"{message}; but torch {torch.__version__} cannot use it (driver or build): CPU")
    little = max(free for _, _, free in devices) < _LITTLE_GPU_MB
    return Finding(
        "gpu", WARN if little else OK, message + ("; little for large encoders: lower batch_size" if little else "")
    )


def gpus() -> list[tuple[str, int, int]]:
    """Return name, total and free memory (MB) of every NVIDIA GPU; empty without the driver's tool."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (subprocess.SubprocessError, OSError):
        return []
    findings = []
    for line in done.stdout.strip().splitlines():
        name, total, free = (part.strip() for part in line.split(","))
        if total.isdigit() and free.isdigit():
            findings.append((name, int(total), int(free)))
    return findings


def check_packages(requirements: Path) -> list[Finding]:
    """Compare what is installed with the pins of the one environment; conda can stand in for it."""
    conda = next((name for name in ("conda", "mamba", "micromamba") if shutil.which(name)), None)
    missing, other = compare_pins(requirements)
    if missing:
        message = f"not installed: {format_list(missing)}"
        state = WARN if conda else FAIL
        remedy = (
            " (`--sdm conda` builds an environment per rule)"
            if conda
            else "; `make demo` builds .venv, use its Python."
        )
        findings = [Finding("packages", state, message + remedy)]
    elif other:
        findings = [Finding("packages", WARN, f"{len(other)} not at the pinned version: {format_list(other)}")]
    else:
        findings = [Finding("packages", OK, "every package of envs/requirements.txt at its pinned version")]
    programs = f"{conda} is there, for `--sdm conda`" if conda else "none: the one environment is used"
    return [*findings, Finding("conda", OK, programs)]


def compare_pins(requirements: Path) -> tuple[list[str], list[str]]:
    """Return pinned packages that are missing, and those at another version."""
    missing, other = [], []
    for line in requirements.read_text().splitlines():
        name, _, pin = line.partition("#")[0].strip().partition("==")
        if not pin:
            continue
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
            continue
        # "+cpu" and the like name a build of the same version.
        if version.partition("+")[0] != pin:
            other.append(f"{name} {version} instead of {pin}")
    return missing, other


def check_slurm(needed: bool) -> Finding:
    """Look for the commands of SLURM; they matter only to a run that is sent to a cluster."""
    missing = [name for name in _SLURM if shutil.which(name) is None]
    if not missing:
        return Finding("slurm", OK, "its commands are there")
    message = f"no {', '.join(missing)}"
    if needed:
        return Finding("slurm", FAIL, f"{message}: start the run on a login node of the cluster.")
    return Finding("slurm", OK, f"{message}: profiles/slurm cannot be used from here")
