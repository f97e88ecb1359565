# READS   results/metrics/, results/predictions/, results/targets/, results/folds/, results/samples/
# WRITES  results/tables/..., results/figures/..., results/slides/...


rule draw_experiment:
    input:
        unpack(get("experiment_results", "experiment")),
    output:
        baselines=report(
            "results/figures/{experiment}/baselines.png",
            caption="../report/baselines.rst",
            category="4. Against what",
            labels={"experiment": "{experiment}", "what": "baseline comparison"},
        ),
        table_csv="results/tables/{experiment}/baselines.csv",
        table_md="results/tables/{experiment}/baselines.md",
        table_html=report(
            "results/tables/{experiment}/baselines.html",
            caption="../report/baselines.rst",
            category="4. Against what",
            labels={"experiment": "{experiment}", "what": "baseline comparison, table"},
        ),
        bars=report(
            "results/figures/{experiment}/bars.png",
            caption="../report/bars.rst",
            category="3. How good is it",
            labels={"experiment": "{experiment}", "what": "CC and L1 by patient"},
        ),
    log:
        "logs/report/draw_experiment/{experiment}.log",
    benchmark:
        "benchmarks/report/draw_experiment/{experiment}.tsv"
    wildcard_constraints:
        experiment=EXPERIMENTS,
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=get_memory("draw_experiment"),
        runtime=get_runtime("draw_experiment"),
    params:
        spec=get_spec("experiment_spec", "experiment", part="report"),
        code=code_of("report"),
    script:
        "../../scripts/draw_experiment.py"


rule draw_model:
    input:
        unpack(get("target_files", "experiment")),
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
    log:
        "logs/report/draw_model/{experiment}/{model}.log",
    benchmark:
        "benchmarks/report/draw_model/{experiment}/{model}.tsv"
    wildcard_constraints:
        experiment=EXPERIMENTS,
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=get_memory("draw_model"),
        runtime=get_runtime("draw_model"),
    params:
        code=code_of("report"),
    script:
        "../../scripts/draw_model.py"


rule draw_check:
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
        "logs/report/draw_check/{check}.log",
    benchmark:
        "benchmarks/report/draw_check/{check}.tsv"
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=get_memory("draw_check"),
        runtime=get_runtime("draw_check"),
    params:
        spec=get_spec("named_entry", "check", section="checks"),
        code=code_of("report"),
    script:
        "../../scripts/draw_check.py"


rule show_slide:
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
        "logs/report/show_slide/{experiment}/{model}/{cohort}/{sample}.log",
    benchmark:
        "benchmarks/report/show_slide/{experiment}/{model}/{cohort}/{sample}.tsv"
    wildcard_constraints:
        experiment=APPLICATIONS,
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=get_memory("show_slide"),
        runtime=get_runtime("show_slide"),
    params:
        code=code_of("report"),
    script:
        "../../scripts/show_slide.py"


rule draw_between:
    input:
        unpack(get("experiment_results", "experiment")),
    output:
        figure=report(
            "results/figures/{experiment}/between.png",
            caption="../report/between.rst",
            category="4. Against what",
            labels={
                "experiment": "{experiment}",
                "what": "between or within sections",
            },
        ),
    log:
        "logs/report/draw_between/{experiment}.log",
    benchmark:
        "benchmarks/report/draw_between/{experiment}.tsv"
    wildcard_constraints:
        experiment=EXPERIMENTS,
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=get_memory("draw_between"),
        runtime=get_runtime("draw_between"),
    params:
        spec=get_spec("experiment_spec", "experiment", part="all"),
        code=code_of("report"),
    script:
        "../../scripts/draw_between.py"


rule draw_ablation:
    input:
        unpack(get("experiment_results", "experiment")),
    output:
        ablation_csv="results/tables/{experiment}/ablation.csv",
        ablation_md="results/tables/{experiment}/ablation.md",
        ablation_html=report(
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
        "logs/report/draw_ablation/{experiment}.log",
    benchmark:
        "benchmarks/report/draw_ablation/{experiment}.tsv"
    wildcard_constraints:
        experiment=EXPERIMENTS,
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=get_memory("draw_ablation"),
        runtime=get_runtime("draw_ablation"),
    params:
        spec=get_spec("experiment_spec", "experiment", part="report"),
        code=code_of("report"),
    script:
        "../../scripts/draw_ablation.py"


rule draw_attainable:
    input:
        unpack(get("attainable_files", "experiment")),
    output:
        figure=report(
            "results/figures/{experiment}/attainable.png",
            caption="../report/attainable.rst",
            category="2. How good could it be",
            labels={"experiment": "{experiment}", "what": "CC next to its ceiling"},
        ),
        csv="results/tables/{experiment}/attainable.csv",
        md="results/tables/{experiment}/attainable.md",
        html=report(
            "results/tables/{experiment}/attainable.html",
            caption="../report/attainable.rst",
            category="2. How good could it be",
            labels={
                "experiment": "{experiment}",
                "what": "CC next to its ceiling, table",
            },
        ),
    log:
        "logs/report/draw_attainable/{experiment}.log",
    benchmark:
        "benchmarks/report/draw_attainable/{experiment}.tsv"
    wildcard_constraints:
        experiment=EXPERIMENTS,
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=get_memory("draw_attainable"),
        runtime=get_runtime("draw_attainable"),
    params:
        spec=get_spec("experiment_spec", "experiment", part="report"),
        code=code_of("report"),
    script:
        "../../scripts/draw_attainable.py"


rule draw_errors:
    input:
        unpack(get("error_files", "experiment")),
        predictions="results/predictions/{experiment}/{model}/default.h5ad",
    output:
        figure=report(
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
        "logs/report/draw_errors/{experiment}/{model}.log",
    benchmark:
        "benchmarks/report/draw_errors/{experiment}/{model}.tsv"
    wildcard_constraints:
        experiment=EXPERIMENTS,
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=get_memory("draw_errors"),
        runtime=get_runtime("draw_errors"),
    params:
        title=get_spec("experiment_title", "experiment"),
        code=code_of("report"),
    script:
        "../../scripts/draw_errors.py"


rule export_errors:
    input:
        cases="results/tables/{experiment}/{model}/errors.csv",
        sample="results/samples/{cohort}/{sample}.h5ad",
    output:
        geojson="results/slides/{experiment}/{model}/{cohort}/{sample}.errors.geojson",
    log:
        "logs/report/export_errors/{experiment}/{model}/{cohort}/{sample}.log",
    benchmark:
        "benchmarks/report/export_errors/{experiment}/{model}/{cohort}/{sample}.tsv"
    wildcard_constraints:
        experiment=EXPERIMENTS,
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=get_memory("export_errors"),
        runtime=get_runtime("export_errors"),
    params:
        code=code_of("report"),
    script:
        "../../scripts/export_errors.py"


rule show_leaks:
    input:
        unpack(get("leak_results", "experiment")),
    output:
        figure=report(
            "results/figures/{experiment}/leaks.png",
            caption="../report/leaks.rst",
            category="6. Leaks",
            labels={"experiment": "{experiment}", "what": "what a leak is worth"},
        ),
        csv="results/tables/{experiment}/leaks.csv",
        md="results/tables/{experiment}/leaks.md",
        html=report(
            "results/tables/{experiment}/leaks.html",
            caption="../report/leaks.rst",
            category="6. Leaks",
            labels={
                "experiment": "{experiment}",
                "what": "what a leak is worth, table",
            },
        ),
    log:
        "logs/report/show_leaks/{experiment}.log",
    benchmark:
        "benchmarks/report/show_leaks/{experiment}.tsv"
    wildcard_constraints:
        experiment=LEAKS,
    conda:
        "../../envs/report.yaml"
    threads: 1
    resources:
        mem_mb=get_memory("show_leaks"),
        runtime=get_runtime("show_leaks"),
    params:
        spec=get_spec("experiment_spec", "experiment", part="all"),
        code=code_of("report"),
    script:
        "../../scripts/show_leaks.py"
