# Shared by all stages: the plan, wildcard constraints, and thin functions that ask the plan.
# The only file with functions. They name files and choices; they never read a result.
from functools import partial

from histoloom.identity import canonical_json
from histoloom.plan import Plan
from histoloom.job_resources import memory_mb, runtime_minutes
from histoloom.versions import code_of, version_of

PLAN = Plan.from_raw(config, workflow.configfiles)
RAW = PLAN.config.raw_dir
NEVER = "(?!)"  # a wildcard constraint that nothing matches
NAME = "[A-Za-z0-9_-]+"
ALONE = "|".join(PLAN.alone) or NEVER
PRECOMPUTED = "|".join(PLAN.precomputed) or NEVER
TRAINED = "|".join(PLAN.experiments("abundance")) or NEVER
EXPERIMENTS = "|".join(PLAN.evaluations()) or NEVER
LEAKS = "|".join(PLAN.leakage_tests()) or NEVER
PROBES = "|".join(PLAN.experiments("probe")) or NEVER
APPLICATIONS = "|".join(PLAN.experiments("apply")) or NEVER


wildcard_constraints:
    batch=r"b\d+-[0-9a-f]{8}",
    cohort=NAME,
    encoder=NAME,
    experiment=NAME,
    group=NAME,
    check=NAME,
    labels=NAME,
    model=NAME,
    number=r"\d+",
    outline="cells|nuclei",
    paper=NAME,
    part=r"part\d+|[A-Za-z0-9_-]+\.\d+",
    reference=NAME,
    sample=NAME,
    seed=r"\d+",
    source="|".join(PLAN.downloaded_sources) or NEVER,
    tiles=NAME,
    variant=NAME,


# A mirror must not be tracked: a run without it would fetch everything again. A param function that
# takes `input` is not tracked.
def get_mirror(wildcards, input):
    return PLAN.config.mirror_dir or ""


# Each asks a method of the plan, with wildcards by name and further arguments as they are: for files or numbers ...
def get(method, *names, **arguments):
    def ask(wildcards):
        return getattr(PLAN, method)(
            *(getattr(wildcards, name) for name in names), **arguments
        )

    return ask


# ... and for the choices that decide a result, as one scalar param.
def get_spec(method, *names, **arguments):
    ask = get(method, *names, **arguments)

    def ask_spec(wildcards):
        return canonical_json(ask(wildcards))

    return ask_spec


# Memory and time by the size of the input and the attempt, fitted to measured runs (histoloom.job_resources).
def get_demand(measure, rule, kind=None, name=None):
    def ask(wildcards, input, attempt):
        job = (
            f"{rule}.{getattr(PLAN, kind)(getattr(wildcards, name))}" if kind else rule
        )
        return measure(job, input, attempt)

    return ask


get_memory = partial(get_demand, memory_mb)
get_runtime = partial(get_demand, runtime_minutes)


def get_exclusions():
    return canonical_json(PLAN.excluded())


def get_all_targets():
    return PLAN.targets()
