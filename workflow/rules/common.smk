# What every rule file uses: the plan, wildcard constraints, and thin functions that ask the plan.
# The only file with functions. They name files and specs; they never read one.
from histoloom.identity import canonical_json
from histoloom.plan import Plan
from histoloom.versions import STAGE_VERSIONS

PLAN = Plan.from_raw(config, workflow.configfiles)
RAW = PLAN.config.raw_dir
NEVER = "(?!)"  # a wildcard constraint that nothing matches
NAME = "[A-Za-z0-9_-]+"
EXPERIMENTS = "|".join(PLAN.experiments("abundance")) or NEVER
APPLICATIONS = "|".join(PLAN.experiments("apply")) or NEVER


wildcard_constraints:
    batch=r"b\d+-[0-9a-f]{8}",
    cohort=NAME,
    encoder=NAME,
    experiment=NAME,
    group=NAME,
    judge=NAME,
    labels=NAME,
    model=NAME,
    paper=NAME,
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


def get_cohort_spec(wildcards):
    return canonical_json(PLAN.cohort_spec(wildcards.cohort))


def get_simulation_spec(wildcards):
    return canonical_json(PLAN.simulation_spec(wildcards.cohort))


def get_row(wildcards):
    return canonical_json(PLAN.row(wildcards.cohort, wildcards.sample))


def get_sample_files(wildcards):
    return PLAN.sample_files(wildcards.cohort, wildcards.sample)


def get_slide(wildcards):
    return PLAN.slide(wildcards.cohort, wildcards.sample)


def get_tiles_spec(wildcards):
    return canonical_json(PLAN.config.get("tiles", wildcards.tiles))


def get_batch_files(wildcards):
    return PLAN.batch_files(wildcards.encoder, wildcards.cohort, wildcards.batch)


def get_encoder_spec(wildcards):
    return canonical_json(PLAN.encoder_spec(wildcards.encoder))


def get_encoder_gpu(wildcards):
    return int(PLAN.encoder_spec(wildcards.encoder)["card"]["kind"] != "stain_texture")


def get_reference_files(wildcards):
    return PLAN.reference_files(wildcards.reference)


def get_reference_spec(wildcards):
    return canonical_json(PLAN.reference_spec(wildcards.reference))


def get_label_files(wildcards):
    return PLAN.label_inputs(wildcards.labels, wildcards.cohort, wildcards.group)


def get_label_groups(wildcards):
    return PLAN.label_files(wildcards.labels, wildcards.cohort)


def get_label_spec(wildcards):
    return canonical_json(PLAN.config.get("labels", wildcards.labels))


def get_label_gpu(wildcards):
    return int(PLAN.config.get("labels", wildcards.labels)["method"] == "cell2location")


def get_fit_threads(wildcards):
    return PLAN.config.get("labels", wildcards.labels).get("fit_threads", 1)


def get_target_files(wildcards):
    return PLAN.target_files(wildcards.experiment)


def get_experiment_spec(part):
    def get_part(wildcards):
        return canonical_json(PLAN.experiment_spec(wildcards.experiment, part))

    return get_part


def get_model_spec(wildcards):
    return canonical_json({**PLAN.config.get("models", wildcards.model), "name": wildcards.model})


def get_model_embeddings(wildcards):
    return PLAN.model_embeddings(wildcards.experiment, wildcards.model)


def get_model_gpu(wildcards):
    return int(PLAN.config.get("models", wildcards.model)["kind"] == "mlp")


def get_apply_files(wildcards):
    return PLAN.apply_files(wildcards.experiment, wildcards.model)


def get_judge_files(wildcards):
    return PLAN.judge_files(wildcards.judge)


def get_judge_spec(wildcards):
    return canonical_json({**PLAN.config.get("judges", wildcards.judge), "name": wildcards.judge})


def get_experiment_results(wildcards):
    return PLAN.experiment_results(wildcards.experiment)


def get_paper_results(wildcards):
    return PLAN.paper_results(wildcards.paper)


def get_paper_spec(wildcards):
    return canonical_json(PLAN.paper_spec(wildcards.paper))


def get_all_targets():
    return PLAN.targets()
