# histoloom's entry point: where things are, what is included in flow order, and what `all` means.
import os
import subprocess
import sys

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

min_version("9.0")
ROOT = workflow.current_basedir.get_path_or_uri(secret_free=True)
sys.path.insert(0, f"{ROOT}/workflow/src")

# Snakemake itself answers this with a traceback.
if not os.access(os.getcwd(), os.W_OK):
    raise WorkflowError(
        f"{os.getcwd()}: cannot be written. Remedy: fix its permissions or mount, or run elsewhere with --directory."
    )


# The demo is the default. A config of its own replaces it whole instead of being merged into it.
if "experiments" not in config:

    configfile: f"{ROOT}/config/config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/sources.smk"
include: "workflow/rules/samples.smk"
include: "workflow/rules/exports.smk"
include: "workflow/rules/tiles.smk"
include: "workflow/rules/nuclei.smk"
include: "workflow/rules/embeddings.smk"
include: "workflow/rules/labels.smk"
include: "workflow/rules/cells.smk"
include: "workflow/rules/folds.smk"
include: "workflow/rules/audit.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/metrics.smk"
include: "workflow/rules/clusters.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/viewer.smk"
include: "workflow/rules/hooks.smk"


rule all:
    default_target: True
    input:
        all_targets,


rule viewer:
    input:
        PLAN.viewers.all_files(),


rule exports:
    input:
        PLAN.viewers.exports(),


check_wildcards(workflow.rules)
