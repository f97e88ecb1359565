# Shared by all stages: the plan, wildcard constraints, and thin functions that ask the plan.
# The only file with functions. They name files and choices; they never read a result.
from functools import partial
from inspect import signature
from operator import attrgetter
from pathlib import Path

from snakemake.io import get_wildcard_names

from histoloom import content, paths
from histoloom.errors import InputError
from histoloom.identity import canonical_json
from histoloom.job_resources import NEEDS, memory_mb, runtime_minutes
from histoloom.plan import Plan
from histoloom.versions import code_of, version_of

PLAN = Plan.from_raw(config, workflow.configfiles)
RAW = PLAN.config.raw_dir
# Jobs inherit it, here and on a cluster; it decides no result, so it is no param.
os.environ[content.SWITCH] = "on" if PLAN.config.verify_content else "off"
NAME = "[A-Za-z0-9_-]+"


# A wildcard constraint that holds for these names only.
def one_of(names):
    return "|".join(names) or "(?!)"


ALONE = one_of(PLAN.embeddings.alone)
PRECOMPUTED = one_of(PLAN.embeddings.precomputed)
TRAINED = one_of(PLAN.experiments.named("evaluate"))
EXPERIMENTS = one_of(PLAN.experiments.evaluations())
LEAKS = one_of(PLAN.experiments.leakage_tests())
TOGETHER = one_of(PLAN.models.by_job("experiment"))
BY_FOLD = one_of(PLAN.models.by_job("fold"))
APPLICATIONS = one_of(PLAN.experiments.named("apply"))
CLASSES = one_of(PLAN.experiments.of_classes())


wildcard_constraints:
    cell_labels=NAME,
    batch=r"b\d+-[0-9a-f]{8}",
    check=NAME,
    clusters=NAME,
    cohort=NAME,
    encoder=NAME,
    experiment=NAME,
    fold=NAME,
    group=NAME,
    labels=NAME,
    model=NAME,
    number=r"\d+",
    outline="cells|nuclei",
    paper=NAME,
    part=r"part\d+|[A-Za-z0-9_-]+\.\d+",
    reference=NAME,
    sample=NAME,
    seed=r"\d+",
    source=one_of(PLAN.sections.downloaded_sources),
    tiles=NAME,
    variant=NAME,


# What `all` asks for. The user's own files are looked at first, so that one error names all that are wrong.
def all_targets(wildcards):
    try:
        PLAN.check_files()
    except InputError as error:
        raise WorkflowError(str(error)) from None
    return PLAN.report.targets() + PLAN.viewers.shown()


# A mirror must not be tracked: a run without it would fetch everything again. A param function that
# takes `input` is not tracked.
def get_mirror(wildcards, input):
    return PLAN.config.mirror_dir or ""


# What a method of the plan gives for the wildcards that its parameters name; other parameters are given here.
def inputs(method, then=None, **given):
    names = [name for name in signature(method).parameters if name not in given]

    def ask(wildcards):
        answer = method(**{name: wildcards[name] for name in names}, **given)
        return then(answer) if then else answer

    ask.wildcards = names
    # Snakemake asks for it several times per job.
    ask.__signature__ = signature(ask)
    return ask


# The choices that decide a result, as one scalar param.
spec = partial(inputs, then=canonical_json)


# A fact of the kind that a method gives: its version, how many GPUs it can use.
def fact(method, name):
    return inputs(method, then=attrgetter(name))


chapter = PLAN.report.chapter  # of the report, numbered


# A file that the report shows in a chapter, listed by its wildcards and by what it is; its caption has its name.
# Wildcards of its pattern that are known here are given.
def shown(pattern, title, what, **known):
    path = paths.fill(pattern, **known)
    labels = {name: f"{{{name}}}" for name in get_wildcard_names(path)}
    caption = f"../report/{Path(path).stem}.rst"
    return report(
        path, caption, category=chapter(title), labels={**labels, "what": what}
    )


# A table of an experiment in three forms, of which the report shows the page; roles are csv, md and html.
def shown_table(table, title, what, role=""):
    csv, md = (paths.fill(paths.TABLE, table=table, ending=e) for e in ("csv", "md"))
    html = shown(paths.TABLE, title, what, table=table, ending="html")
    return {f"{role}csv": csv, f"{role}md": md, f"{role}html": html}


# Memory or time by the size of the input and the attempt; what is needed is that of the rule, or of a kind.
def measured(measure, need):
    ask = inputs(need) if callable(need) else None

    def ask_measure(wildcards, input, attempt):
        needed = ask(wildcards) if ask else need
        return measure(getattr(needed, "memory", needed), input, attempt)

    ask_measure.wildcards = ask.wildcards if ask else []
    ask_measure.__signature__ = signature(ask_measure)
    return ask_measure


memory = partial(measured, memory_mb)
runtime = partial(measured, runtime_minutes)


# Refuse a rule that asks the plan by a wildcard which it does not have; otherwise only its first job would fail.
def check_wildcards(rules):
    for known in rules:
        flagged = [getattr(item, "_file", item) for item in known.input]
        asked = [getattr(item, "callable", item) for item in flagged]
        values = known.resources.values()
        asked += [*known.params, *(getattr(v, "_evaluator", v) for v in values)]
        names = {name for ask in asked for name in getattr(ask, "wildcards", [])}
        if missing := sorted(names - known.wildcard_names):
            raise WorkflowError(f"{known.name} has no wildcard {', '.join(missing)}.")
