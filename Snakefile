# histoloom's entry point: where things are, what is included in flow order, and what `all` means.
import os
import subprocess
import sys

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

min_version("9.0")
TOOLS = workflow.current_basedir.join("scripts/tools").get_path_or_uri(secret_free=True)
SUMMARY = [sys.executable, f"{TOOLS}/run_summary.py", "--ended"]
sys.path.insert(
    0, workflow.current_basedir.join("workflow/src").get_path_or_uri(secret_free=True)
)

# Snakemake's own words for this are a traceback.
if not os.access(os.getcwd(), os.W_OK):
    raise WorkflowError(
        f"{os.getcwd()}: cannot be written. Remedy: fix its permissions or mount, or run elsewhere with --directory."
    )


# The demo is the default. A config of its own replaces it whole instead of being merged into it.
if "experiments" not in config:

    configfile: workflow.current_basedir.join("config/config.yaml").get_path_or_uri(secret_free=True)


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/sources.smk"
include: "workflow/rules/samples.smk"
include: "workflow/rules/exports.smk"
include: "workflow/rules/tiles.smk"
include: "workflow/rules/nuclei.smk"
include: "workflow/rules/embeddings.smk"
include: "workflow/rules/labels.smk"
include: "workflow/rules/folds.smk"
include: "workflow/rules/audit.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/probe.smk"
include: "workflow/rules/metrics.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/report.smk"


# What would fail later; for a cluster also what the run will ask of it. And what it asked and used, when it ends.
onstart:
    how_far = "--from-run" if workflow.non_local_exec else "--quick"
    ask = [sys.executable, f"{TOOLS}/plan_run.py", how_far, *sys.argv[1:]]
    inputs = {
        str(path) for job in workflow.dag.needrun_jobs() for path in job.input
    }
    # Its options name files as seen from where it was called, which --directory has left.
    if subprocess.run(
        ask, cwd=workflow.rundir, input="\n".join(inputs), text=True
    ).returncode:
        raise WorkflowError(
            "nothing was started: see above for what would have failed."
        )


onsuccess:
    subprocess.run(SUMMARY, stdout=subprocess.DEVNULL)


onerror:
    subprocess.run(SUMMARY, stdout=subprocess.DEVNULL)


rule all:
    default_target: True
    input:
        PLAN.report.targets(),


check_wildcards(workflow.rules)
