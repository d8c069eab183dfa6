"""From scores to claims, tables, figures and the gallery. What the default target shows is made from one scores.csv."""


include: "report_helpers.smk"


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
        "python -m unigrpo collect --out {output.scores:q} {params.runs:q} 2>&1 | tee {log:q}"


use rule collect as collect_apart with:
    input:
        scores=lambda wildcards: files(named(wildcards), "scores.jsonl"),
    output:
        scores="results/{scale}/scores/{kind}.{name}.csv",
    log:
        "results/{scale}/logs/collect.{kind}.{name}.log",
    params:
        runs=lambda wildcards: collected(named(wildcards)),


rule table:
    input:
        scores=scores_of("table"),
        paper=PAPER,
        runs=records_of("table"),
    output:
        csv="results/{scale}/tables/{name}.csv",
        md="results/{scale}/tables/{name}.md",
        tex="results/{scale}/tables/{name}.tex",
        html=report(
            "results/{scale}/tables/{name}.html",
            caption="captions/result.rst",
            category="Tables",
            labels={"table": "{name}"},
        ),
    log:
        "results/{scale}/logs/table.{name}.log",
    localrule: True
    conda:
        "../environment.yml"
    params:
        content=content("table"),
        caption=caption_of("table"),
        scale=SCALE_NOTE,
        scores=scores_option,
    shell:
        "python -m unigrpo table {wildcards.name} --scale {wildcards.scale} {params.scores:q}"
        " --paper {input.paper:q} 2>&1 | tee {log:q}"


rule figure:
    input:
        scores=scores_of("figure"),
        paper=PAPER,
        runs=records_of("figure"),
    output:
        csv="results/{scale}/figures/{name}.csv",
        pdf="results/{scale}/figures/{name}.pdf",
        png=report(
            "results/{scale}/figures/{name}.png",
            caption="captions/result.rst",
            category="Figures",
            labels={"figure": "{name}"},
        ),
    log:
        "results/{scale}/logs/figure.{name}.log",
    localrule: True
    conda:
        "../environment.yml"
    params:
        content=content("figure"),
        caption=caption_of("figure"),
        scale=SCALE_NOTE,
        scores=scores_option,
    shell:
        "python -m unigrpo figure {wildcards.name} --scale {wildcards.scale} {params.scores:q}"
        " --paper {input.paper:q} 2>&1 | tee {log:q}"


rule claims:
    input:
        scores="results/{scale}/scores.csv",
        paper=PAPER,
        runs=lambda wildcards: files(claimed(), "run.json"),
    output:
        csv="results/{scale}/claims.csv",
        md="results/{scale}/claims.md",
        html=report(
            "results/{scale}/claims.html",
            caption="captions/result.rst",
            category="Tables",
            labels={"table": "claims"},
        ),
    log:
        "results/{scale}/logs/claims.log",
    localrule: True
    conda:
        "../environment.yml"
    params:
        content=lambda wildcards: resolve.fingerprint([STUDY.catalogue["claims"], described(claimed())]),
        caption=CLAIMS,
        scale=SCALE_NOTE,
    shell:
        "python -m unigrpo claims --scale {wildcards.scale} --scores {input.scores:q} --paper {input.paper:q} 2>&1 | tee {log:q}"


use rule collect as collect_two with:
    input:
        scores=lambda wildcards: files(named(wildcards), "scores.jsonl"),
    output:
        scores="results/{scale}/scores/{a}.vs.{b}.csv",
    log:
        "results/{scale}/logs/collect.{a}.vs.{b}.log",
    params:
        runs=lambda wildcards: collected(named(wildcards)),


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
        content=lambda wildcards: described(named(wildcards)),
        thinking=shared_mode,
    shell:
        "python -m unigrpo compare {wildcards.a} {wildcards.b} --scale {wildcards.scale} {params.thinking}"
        " --scores {input.scores:q} 2>&1 | tee {log:q}"


rule gallery:
    input:
        runs=files(JUDGED, "samples/done.json"),
        scores="results/{scale}/scores.csv",
    output:
        pages=directory("results/{scale}/gallery"),
        single=report(
            "results/{scale}/gallery.html",
            caption="captions/result.rst",
            category="Gallery",
            labels={"gallery": "all runs"},
        ),
    log:
        "results/{scale}/logs/gallery.log",
    localrule: True
    conda:
        "../environment.yml"
    params:
        content=described(JUDGED),
        caption=GALLERY,
        scale=SCALE_NOTE,
    shell:
        "python -m unigrpo gallery --scale {wildcards.scale} 2>&1 | tee {log:q}"
