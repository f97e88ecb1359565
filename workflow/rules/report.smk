# READS   results/metrics/, results/predictions/, results/targets/, results/folds/, results/samples/
# WRITES  results/tables/, results/figures/, results/slides/  of an experiment, a model, a check and a slide


rule report_experiment:
    input:
        unpack(inputs(PLAN.report.results)),
    output:
        **shown_table("summary", "How good is it", "summary", role="summary_"),
        **shown_table(
            "baselines",
            "Compared with baselines",
            "baseline comparison, table",
            role="baselines_",
        ),
        bars=shown(
            paths.FIGURE, "How good is it", "CC and L1 by patient", figure="bars"
        ),
        baselines=shown(
            paths.FIGURE,
            "Compared with baselines",
            "baseline comparison",
            figure="baselines",
        ),
        between=shown(
            paths.FIGURE,
            "Compared with baselines",
            "between or within sections",
            figure="between",
        ),
        curves=shown(paths.FIGURE, "How good is it", "losses by epoch", figure="curves"),
    log:
        "logs/report/report_experiment/{experiment}.log",
    benchmark:
        "benchmarks/report/report_experiment/{experiment}.tsv"
    wildcard_constraints:
        experiment=EXPERIMENTS,
    conda:
        "../../envs/report.yaml"
    threads: 1
    params:
        spec=spec(PLAN.report.spec),
        code=code_of("report"),
    script:
        "../../scripts/report_experiment.py"


rule report_ablation:
    input:
        unpack(inputs(PLAN.report.results)),
    output:
        **shown_table(
            "ablation",
            "How good is it",
            "encoders alone and together, table",
        ),
        figure=shown(
            paths.FIGURE,
            "How good is it",
            "encoders alone and together",
            figure="ablation",
        ),
    log:
        "logs/report/report_ablation/{experiment}.log",
    benchmark:
        "benchmarks/report/report_ablation/{experiment}.tsv"
    wildcard_constraints:
        experiment=EXPERIMENTS,
    conda:
        "../../envs/report.yaml"
    threads: 1
    params:
        spec=spec(PLAN.report.spec),
        code=code_of("report"),
    script:
        "../../scripts/report_ablation.py"


rule report_attainable:
    input:
        unpack(inputs(PLAN.report.attainable_files)),
    output:
        **shown_table(
            "attainable",
            "How good could it be",
            "CC and its ceiling, table",
        ),
        figure=shown(
            paths.FIGURE,
            "How good could it be",
            "CC and its ceiling",
            figure="attainable",
        ),
    log:
        "logs/report/report_attainable/{experiment}.log",
    benchmark:
        "benchmarks/report/report_attainable/{experiment}.tsv"
    wildcard_constraints:
        experiment=EXPERIMENTS,
    conda:
        "../../envs/report.yaml"
    threads: 1
    params:
        spec=spec(PLAN.report.spec),
        code=code_of("report"),
    script:
        "../../scripts/report_attainable.py"


rule report_expression:
    input:
        unpack(inputs(PLAN.report.expression_files)),
        target=paths.TARGET,
        folds=paths.FOLDS,
    output:
        **shown_table("protocols", "How good is it", "genes scored three ways"),
        pcc=shown(
            paths.FIGURE, "How good is it", "correlation by gene", figure="gene_pcc"
        ),
        profiles=shown(
            paths.FIGURE,
            "Where does it fail",
            "mean and spread of genes",
            figure="gene_profiles",
        ),
        gene_gene=shown(
            paths.FIGURE, "Where does it fail", "gene with gene", figure="gene_gene"
        ),
        maps=shown(paths.GENE_MAPS, "Where does it fail", "genes over a slide"),
    log:
        "logs/report/report_expression/{experiment}.log",
    benchmark:
        "benchmarks/report/report_expression/{experiment}.tsv"
    wildcard_constraints:
        experiment=EXPERIMENTS,
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=memory(NEEDS["report_model"]),
        runtime=runtime(NEEDS["report_model"]),
    params:
        spec=spec(PLAN.report.expression_spec),
        code=code_of("report"),
    script:
        "../../scripts/report_expression.py"


rule report_leaks:
    input:
        unpack(inputs(PLAN.report.leakage_results)),
    output:
        **shown_table("leaks", "Leakage", "leakage effect, table"),
        figure=shown(paths.FIGURE, "Leakage", "leakage effect", figure="leaks"),
    log:
        "logs/report/report_leaks/{experiment}.log",
    benchmark:
        "benchmarks/report/report_leaks/{experiment}.tsv"
    wildcard_constraints:
        experiment=LEAKS,
    conda:
        "../../envs/report.yaml"
    threads: 1
    params:
        spec=spec(PLAN.report.spec),
        code=code_of("report"),
    script:
        "../../scripts/report_leaks.py"


rule report_model:
    input:
        unpack(inputs(PLAN.report.report_files)),
        metrics=paths.METRICS,
        predictions=inputs(PLAN.models.first_predictions),
        target=paths.TARGET,
        folds=paths.FOLDS,
    output:
        maps=shown(paths.MODEL_FIGURE, "Where does it fail", "maps", figure="maps.jpg"),
        ranks=shown(
            paths.MODEL_FIGURE,
            "Where does it fail",
            "ranks of types",
            figure="ranks.png",
        ),
        colocalization=shown(
            paths.MODEL_FIGURE,
            "Where does it fail",
            "colocalization",
            figure="colocalization.png",
        ),
        errors=shown(
            paths.MODEL_FIGURE, "Where does it fail", "errors", figure="errors.jpg"
        ),
        cases=paths.CASES,
    log:
        "logs/report/report_model/{experiment}/{model}.log",
    benchmark:
        "benchmarks/report/report_model/{experiment}/{model}.tsv"
    wildcard_constraints:
        experiment=EXPERIMENTS,
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=memory(NEEDS["report_model"]),
        runtime=runtime(NEEDS["report_model"]),
    params:
        title=spec(PLAN.report.title),
        code=code_of("report"),
    script:
        "../../scripts/report_model.py"


rule report_models:
    input:
        unpack(inputs(PLAN.report.compared_files)),
        target=paths.TARGET,
        folds=paths.FOLDS,
    output:
        maps=shown(paths.MODELS_FIGURE, "Where does it fail", "models side by side"),
        colocalization=shown(
            paths.FIGURE,
            "Where does it fail",
            "colocalization by all models",
            figure="models_colocalization",
        ),
    log:
        "logs/report/report_models/{experiment}.log",
    benchmark:
        "benchmarks/report/report_models/{experiment}.tsv"
    wildcard_constraints:
        experiment=EXPERIMENTS,
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=memory(NEEDS["report_model"]),
        runtime=runtime(NEEDS["report_model"]),
    params:
        models=spec(PLAN.report.compared),
        code=code_of("report"),
    script:
        "../../scripts/report_models.py"


rule report_check:
    input:
        metrics=paths.CHECK,
    output:
        figure=report(
            paths.CHECK_FIGURE,
            caption="../report/check.rst",
            category=inputs(PLAN.checks.chapter, then=chapter),
            labels=inputs(PLAN.checks.columns),
        ),
    log:
        "logs/report/report_check/{check}.log",
    benchmark:
        "benchmarks/report/report_check/{check}.tsv"
    conda:
        "../../envs/report.yaml"
    threads: 1
    params:
        spec=spec(PLAN.checks.spec),
        code=code_of("report"),
    script:
        "../../scripts/report_check.py"


rule report_slide:
    input:
        unpack(inputs(PLAN.viewers.files)),
    output:
        types=paths.fill(paths.SLIDE, ending="types.tsv"),
        table=paths.fill(paths.SLIDE, ending="tsv"),
        geojson=paths.fill(paths.SLIDE, ending="geojson"),
        figure=report(
            paths.SLIDE_FIGURE,
            caption="../report/slide.rst",
            category=chapter("New slides"),
            labels={"slide": "{sample}", "model": "{model}"},
        ),
    log:
        "logs/report/report_slide/{experiment}/{model}/{cohort}/{sample}.log",
    benchmark:
        "benchmarks/report/report_slide/{experiment}/{model}/{cohort}/{sample}.tsv"
    wildcard_constraints:
        experiment=APPLICATIONS,
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=memory(NEEDS["report_slide"]),
        runtime=runtime(NEEDS["report_slide"]),
    params:
        code=code_of("report"),
        crop=PLAN.config.qupath_crop,
    script:
        "../../scripts/report_slide.py"


rule report_front:
    input:
        unpack(inputs(PLAN.report.front_files)),
    output:
        html=report(
            PLAN.report.own(paths.FRONT_PAGE),
            caption="../report/front.rst",
            category=chapter("In short"),
            labels={"what": "front page"},
        ),
    log:
        "logs/report/report_front/report_front.log",
    benchmark:
        "benchmarks/report/report_front/report_front.tsv"
    conda:
        "../../envs/report.yaml"
    threads: 1
    params:
        spec=spec(PLAN.report.front_spec),
        code=code_of("report"),
    script:
        "../../scripts/report_front.py"
