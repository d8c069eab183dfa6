"""From scores to claims, tables, figures and the gallery. What the default target shows is made from one scores.csv."""


rule collect:
    input:
        scores=files(JUDGED, "scores.jsonl"),
    output:
        scores="results/{scale}/scores.csv",
    log:
        "results/{scale}/logs/collect.log",
    localrule: True
    conda:
        "../environment.yml"
    params:
        runs=collected(JUDGED),
    shell:
        "python -m unigrpo.report.collect --out {output.scores:q} {params.runs:q} 2>&1 | tee {log:q}"


use rule collect as collect_apart with:
    input:
        scores=named_scores,
    output:
        scores="results/{scale}/scores/{kind}.{name}.csv",
    log:
        "results/{scale}/logs/collect.{kind}.{name}.log",
    params:
        runs=named_runs,


rule spec:
    input:
        catalogue=ancient(CATALOGUE_FILE),
    output:
        spec="results/{scale}/specs/{kind}.{name}.json",
    log:
        "results/{scale}/logs/spec.{kind}.{name}.log",
    localrule: True
    conda:
        "../environment.yml"
    params:
        spec=spec,
    shell:
        "python -m unigrpo.study.resolve --catalogue {input.catalogue:q} --{wildcards.kind} {wildcards.name}"
        " --out {output.spec:q} 2>&1 | tee {log:q}"


rule table:
    input:
        spec="results/{scale}/specs/table.{name}.json",
        scores=scores_of("table"),
        paper=PAPER,
        runs=inputs_of("table"),
    output:
        csv="results/{scale}/tables/{name}.csv",
        md="results/{scale}/tables/{name}.md",
        tex="results/{scale}/tables/{name}.tex",
        html=report(
            "results/{scale}/tables/{name}.html",
            caption="captions/table.rst",
            category="Tables",
            labels={"table": "{name}"},
        ),
    log:
        "results/{scale}/logs/table.{name}.log",
    localrule: True
    conda:
        "../environment.yml"
    params:
        kind=kind_of_table,
        scores=scores_option,
    shell:
        "python -m unigrpo.report.tables --name {wildcards.name} --spec {input.spec:q} {params.scores:q}"
        " --results results/{wildcards.scale} --paper {input.paper:q} --out results/{wildcards.scale}/tables 2>&1 | tee {log:q}"


rule figure:
    input:
        spec="results/{scale}/specs/figure.{name}.json",
        scores=scores_of("figure"),
        paper=PAPER,
        runs=inputs_of("figure"),
    output:
        csv="results/{scale}/figures/{name}.csv",
        pdf="results/{scale}/figures/{name}.pdf",
        png=report(
            "results/{scale}/figures/{name}.png",
            caption="captions/figure.rst",
            category="Figures",
            labels={"figure": "{name}"},
        ),
    log:
        "results/{scale}/logs/figure.{name}.log",
    localrule: True
    conda:
        "../environment.yml"
    params:
        kind=kind_of_figure,
        scores=scores_option,
    shell:
        "python -m unigrpo.report.figures --name {wildcards.name} --spec {input.spec:q} {params.scores:q}"
        " --results results/{wildcards.scale} --paper {input.paper:q} --out results/{wildcards.scale}/figures 2>&1 | tee {log:q}"


rule claims:
    input:
        scores="results/{scale}/scores.csv",
        paper=PAPER,
        runs=claimed,
    output:
        csv="results/{scale}/claims.csv",
        md="results/{scale}/claims.md",
        html=report(
            "results/{scale}/claims.html",
            caption="captions/claims.rst",
            category="Tables",
            labels={"table": "claims"},
        ),
    log:
        "results/{scale}/logs/claims.log",
    localrule: True
    conda:
        "../environment.yml"
    params:
        out=subpath(output.csv, parent=True),
    shell:
        "python -m unigrpo.report.claims --scores {input.scores:q} --results {params.out:q} --paper {input.paper:q}"
        " --out {params.out:q} 2>&1 | tee {log:q}"


use rule collect as collect_two with:
    input:
        scores=lambda wildcards: files((wildcards.a, wildcards.b), "scores.jsonl"),
    output:
        scores="results/{scale}/scores/{a}.vs.{b}.csv",
    log:
        "results/{scale}/logs/collect.{a}.vs.{b}.log",
    params:
        runs=lambda wildcards: collected((wildcards.a, wildcards.b)),


rule compare:
    input:
        scores="results/{scale}/scores/{a}.vs.{b}.csv",
    output:
        csv="results/{scale}/compare/{a}.vs.{b}.csv",
        md="results/{scale}/compare/{a}.vs.{b}.md",
        pdf="results/{scale}/compare/{a}.vs.{b}.pdf",
        png="results/{scale}/compare/{a}.vs.{b}.png",
    log:
        "results/{scale}/logs/compare.{a}.vs.{b}.log",
    localrule: True
    conda:
        "../environment.yml"
    params:
        thinking=shared_mode,
    shell:
        "python -m unigrpo.report.compare {wildcards.a} {wildcards.b} --thinking {params.thinking} --scores {input.scores:q}"
        " --results results/{wildcards.scale} --out results/{wildcards.scale}/compare 2>&1 | tee {log:q}"


rule gallery:
    input:
        runs=files(JUDGED, "samples/done.json"),
        scores="results/{scale}/scores.csv",
    output:
        pages=directory("results/{scale}/gallery"),
        single=report(
            "results/{scale}/gallery.html",
            caption="captions/gallery.rst",
            category="Gallery",
            labels={"gallery": "all runs"},
        ),
    log:
        "results/{scale}/logs/gallery.log",
    localrule: True
    conda:
        "../environment.yml"
    shell:
        "python -m unigrpo.report.gallery --results results/{wildcards.scale} --out {output.pages:q}"
        " --single {output.single:q} 2>&1 | tee {log:q}"
