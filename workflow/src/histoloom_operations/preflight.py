"""The whole visit: every check for one config, in the order of the table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from histoloom.config import RESOURCES
from histoloom.errors import InputError
from histoloom.hub import hub_host
from histoloom.plan import Plan
from histoloom.sources.registry import with_mirrors
from histoloom_operations import access, machine
from histoloom_operations.contents import check_contents, shared_patients
from histoloom_operations.findings import FAIL, OK, WARN, Finding
from histoloom_operations.needs import TASKS, Needs, sort_needs, wanted_encoders

_IN_TRAINING = (
    "patients {} are also in the training of its models: predictions on their slides look better than those on a "
    "patient whom the models never saw."
)
REQUIREMENTS = RESOURCES.parent / "envs" / "requirements.txt"


def check_run(
    raw: Mapping[str, Any], files: Sequence[str | Path], *, slurm: bool = False, requirements: Path = REQUIREMENTS
) -> list[Finding]:
    """Check whether a run of a config can succeed on this machine.

    Parameters
    ----------
    raw
        The config as merged.
    files
        The config files, as for `Plan.from_raw`.
    slurm
        Whether the run is to be sent to a cluster.
    requirements
        The pins to compare with.

    Returns
    -------
    list of Finding
        One per row of the table. Hosts are asked whether they answer, and the hub about a token; nothing is fetched.
    """
    surroundings = [
        *machine.check_packages(requirements),
        machine.check_slurm(slurm),
        machine.check_machine(),
    ]
    try:
        plan = Plan.from_raw(raw, files)
        needs = sort_needs(plan)
        specs = [plan.embeddings.spec(name) for name in wanted_encoders(plan) if name in plan.embeddings.computed]
    except InputError as error:
        return [Finding("config", FAIL, str(error)), *surroundings]
    alive = access.reachable(hosts_to_ask(needs, specs))
    sections = {pair for task in TASKS for e in plan.experiments.named(task) for pair in plan.experiments.samples(e)}
    return [
        Finding("config", OK, f"{len(plan.report.targets())} results from {len(sections)} sections"),
        *(
            Finding(f"experiment {name}", WARN, _IN_TRAINING.format(", ".join(patients)))
            for name, patients in shared_patients(plan).items()
        ),
        *_own_files(plan, needs),
        *access.check_local(needs),
        *access.check_downloads(needs, Path(plan.config.raw_dir), alive),
        *access.check_gates(needs.remote, alive),
        *(access.check_weights(spec, alive) for spec in specs),
        machine.check_gpu(jobs_for_gpus(plan, specs)),
        *surroundings,
    ]


def _own_files(plan: Plan, needs: Needs) -> Iterator[Finding]:
    """Say of the user's own files whether they are there, and whether they hold what the run will read."""
    for subject, check in (("own files", plan.check_files), ("inside own files", partial(check_contents, plan))):
        try:
            check()
        except InputError as error:
            yield Finding(subject, FAIL, str(error))
        else:
            if needs.own:
                yield Finding(
                    subject, OK, f"{len(needs.own)} are there" if subject == "own files" else "as they should be"
                )


def hosts_to_ask(needs: Needs, specs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return every host that the run would go to."""
    hosts = [access.host_of(way) for entry in needs.remote for way in with_mirrors(entry)]
    if any(access.weights_of(dict(spec)) == "hub" for spec in specs):
        hosts.append(hub_host())
    return list(dict.fromkeys(hosts))


def jobs_for_gpus(plan: Plan, specs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the entries of the config whose jobs can use a GPU."""
    labels = [name for name in dict.fromkeys(label for label, _ in plan.labels_of_run()) if plan.labels.kind(name).gpu]
    encoders = [str(spec["name"]) for spec in specs if plan.embeddings.kind(str(spec["name"])).gpu]
    return [*(f"labels {name}" for name in labels), *(f"encoder {name}" for name in encoders)]
