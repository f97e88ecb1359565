# READS   results/metrics/, results/predictions/, results/targets/, results/folds/, results/samples/
# WRITES  results/tables/, results/figures/, results/slides/  of an experiment, a model, a check and a slide


rule report_experiment:
    input:
        unpack(get("experiment_results", "experiment")),
    output:
        summary_csv="results/tables/{experiment}/summary.csv",
        summary_md="results/tables/{experiment}/summary.md",
        summary_html=report(
            "results/tables/{experiment}/summary.html",
            caption="../report/summary.rst",
            category="3. How good is it",
            labels={"experiment": "{experiment}", "what": "summary"},
        ),
        bars=report(
            "results/figures/{experiment}/bars.png",
            caption="../report/bars.rst",
            category="3. How good is it",
            labels={"experiment": "{experiment}", "what": "CC and L1 by patient"},
        ),
        baselines_csv="results/tables/{experiment}/baselines.csv",
        baselines_md="results/tables/{experiment}/baselines.md",
        baselines_html=report(
            "results/tables/{experiment}/baselines.html",
            caption="../report/baselines.rst",
            category="4. Against what",
            labels={
                "experiment": "{experiment}",
                "what": "baseline comparison, table",
            },
        ),
        baselines=report(
            "results/figures/{experiment}/baselines.png",
            caption="../report/baselines.rst",
            category="4. Against what",
            labels={"experiment": "{experiment}", "what": "baseline comparison"},
        ),
        between=report(
            "results/figures/{experiment}/between.png",
            caption="../report/between.rst",
            category="4. Against what",
            labels={
                "experiment": "{experiment}",
                "what": "between or within sections",
            },
        ),
    log:
        "logs/report/report_experiment/{experiment}.log",
    benchmark:
        "benchmarks/report/report_experiment/{experiment}.tsv"
    wildcard_constraints:
        experiment=EXPERIMENTS,
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=get_memory("report_experiment"),
        runtime=get_runtime("report_experiment"),
    params:
        spec=get_spec("experiment_spec", "experiment", part="report"),
        code=code_of("report"),
    script:
        "../../scripts/report_experiment.py"


rule report_ablation:
    input:
        unpack(get("experiment_results", "experiment")),
    output:
        csv="results/tables/{experiment}/ablation.csv",
        md="results/tables/{experiment}/ablation.md",
        html=report(
            "results/tables/{experiment}/ablation.html",
            caption="../report/ablation.rst",
            category="3. How good is it",
            labels={
                "experiment": "{experiment}",
                "what": "encoders alone and together, table",
            },
        ),
        figure=report(
            "results/figures/{experiment}/ablation.png",
            caption="../report/ablation.rst",
            category="3. How good is it",
            labels={
                "experiment": "{experiment}",
                "what": "encoders alone and together",
            },
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
    resources:
        mem_mb=get_memory("report_ablation"),
        runtime=get_runtime("report_ablation"),
    params:
        spec=get_spec("experiment_spec", "experiment", part="report"),
        code=code_of("report"),
    script:
        "../../scripts/report_ablation.py"


rule report_attainable:
    input:
        unpack(get("attainable_files", "experiment")),
    output:
        csv="results/tables/{experiment}/attainable.csv",
        md="results/tables/{experiment}/attainable.md",
        html=report(
            "results/tables/{experiment}/attainable.html",
            caption="../report/attainable.rst",
            category="2. How good could it be",
            labels={"experiment": "{experiment}", "what": "CC and its ceiling, table"},
        ),
        figure=report(
            "results/figures/{experiment}/attainable.png",
            caption="../report/attainable.rst",
            category="2. How good could it be",
            labels={"experiment": "{experiment}", "what": "CC and its ceiling"},
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
    resources:
        mem_mb=get_memory("report_attainable"),
        runtime=get_runtime("report_attainable"),
    params:
        spec=get_spec("experiment_spec", "experiment", part="report"),
        code=code_of("report"),
    script:
        "../../scripts/report_attainable.py"


rule report_leaks:
    input:
        unpack(get("leak_results", "experiment")),
    output:
        csv="results/tables/{experiment}/leaks.csv",
        md="results/tables/{experiment}/leaks.md",
        html=report(
            "results/tables/{experiment}/leaks.html",
            caption="../report/leaks.rst",
            category="6. Leaks",
            labels={"experiment": "{experiment}", "what": "leakage effect, table"},
        ),
        figure=report(
            "results/figures/{experiment}/leaks.png",
            caption="../report/leaks.rst",
            category="6. Leaks",
            labels={"experiment": "{experiment}", "what": "leakage effect"},
        ),
    log:
        "logs/report/report_leaks/{experiment}.log",
    benchmark:
        "benchmarks/report/report_leaks/{experiment}.tsv"
    wildcard_constraints:
        experiment=LEAKS,
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=get_memory("report_leaks"),
        runtime=get_runtime("report_leaks"),
    params:
        spec=get_spec("experiment_spec", "experiment", part="all"),
        code=code_of("report"),
    script:
        "../../scripts/report_leaks.py"


rule report_model:
    input:
        unpack(get("report_files", "experiment")),
        metrics="results/metrics/{experiment}/{model}.parquet",
        predictions="results/predictions/{experiment}/{model}/default.h5ad",
        target="results/targets/{experiment}/target.h5ad",
        folds="results/folds/{experiment}.parquet",
    output:
        maps=report(
            "results/figures/{experiment}/{model}/maps.png",
            caption="../report/maps.rst",
            category="5. Where does it fail",
            labels={"experiment": "{experiment}", "model": "{model}", "what": "maps"},
        ),
        ranks=report(
            "results/figures/{experiment}/{model}/ranks.png",
            caption="../report/ranks.rst",
            category="5. Where does it fail",
            labels={
                "experiment": "{experiment}",
                "model": "{model}",
                "what": "ranks of types",
            },
        ),
        colocalization=report(
            "results/figures/{experiment}/{model}/colocalization.png",
            caption="../report/colocalization.rst",
            category="5. Where does it fail",
            labels={
                "experiment": "{experiment}",
                "model": "{model}",
                "what": "colocalization",
            },
        ),
        errors=report(
            "results/figures/{experiment}/{model}/errors.png",
            caption="../report/errors.rst",
            category="5. Where does it fail",
            labels={
                "experiment": "{experiment}",
                "model": "{model}",
                "what": "errors",
            },
        ),
        cases="results/tables/{experiment}/{model}/errors.csv",
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
        mem_mb=get_memory("report_model"),
        runtime=get_runtime("report_model"),
    params:
        title=get_spec("experiment_title", "experiment"),
        code=code_of("report"),
    script:
        "../../scripts/report_model.py"


rule report_check:
    input:
        metrics="results/metrics/checks/{check}.parquet",
    output:
        figure=report(
            "results/figures/checks/{check}.png",
            caption="../report/check.rst",
            category=get("check_chapter", "check"),
            labels=get("check_columns", "check"),
        ),
    log:
        "logs/report/report_check/{check}.log",
    benchmark:
        "benchmarks/report/report_check/{check}.tsv"
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=get_memory("report_check"),
        runtime=get_runtime("report_check"),
    params:
        spec=get_spec("named_entry", "check", section="checks"),
        code=code_of("report"),
    script:
        "../../scripts/report_check.py"


rule report_slide:
    input:
        predictions="results/predictions/{experiment}/{model}/slides.h5ad",
        sample="results/samples/{cohort}/{sample}.h5ad",
    output:
        table="results/slides/{experiment}/{model}/{cohort}/{sample}.tsv",
        geojson="results/slides/{experiment}/{model}/{cohort}/{sample}.geojson",
        figure=report(
            "results/figures/{experiment}/{model}/{cohort}/{sample}.png",
            caption="../report/slide.rst",
            category="9. New slides",
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
        mem_mb=get_memory("report_slide"),
        runtime=get_runtime("report_slide"),
    params:
        code=code_of("report"),
    script:
        "../../scripts/report_slide.py"
