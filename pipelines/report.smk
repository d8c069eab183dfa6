"""From scores to claims, tables, figures and the gallery. What the default target shows is made from one scores.csv."""


rule collect:
    input:
        lambda wildcards: files(named(wildcards), "scores.jsonl"),
    output:
        scores="results/{scale}/scores.csv",
    log:
        "results/{scale}/logs/collect.log",
    localrule: True
    conda:
        "../environment.yml"
    params:
        call=collection,
        given=lambda wildcards, input: options(input),
    shell:
        "python -m unigrpo {params.call} {params.given:q} 2>&1 | tee {log:q}"


use rule collect as collect_apart with:
    output:
        scores="results/{scale}/scores/{kind}.{name}.csv",
    log:
        "results/{scale}/logs/collect.{kind}.{name}.log",


use rule collect as collect_two with:
    output:
        scores="results/{scale}/scores/{a}.vs.{b}.csv",
    log:
        "results/{scale}/logs/collect.{a}.vs.{b}.log",


use rule collect as table with:
    input:
        records,
        scores=scores,
        paper=PAPER,
    output:
        csv="results/{scale}/{kind}s/{name}.csv",
        md="results/{scale}/{kind}s/{name}.md",
        tex="results/{scale}/{kind}s/{name}.tex",
        html=in_report("results/{scale}/{kind}s/{name}.html", "Tables", "result", table="{name}"),
    log:
        "results/{scale}/logs/{kind}.{name}.log",
    wildcard_constraints:
        kind="table",
    params:
        call="{kind} {name} --scale {scale}",
        content=lambda wildcards: resolve.fingerprint([entry(wildcards), described(named(wildcards))]),
        caption=lambda wildcards: facts(wildcards).caption,
        scale=SCALE_NOTE,


use rule table as figure with:
    output:
        csv="results/{scale}/{kind}s/{name}.csv",
        pdf="results/{scale}/{kind}s/{name}.pdf",
        png=in_report("results/{scale}/{kind}s/{name}.png", "Figures", "result", figure="{name}"),
    wildcard_constraints:
        kind="figure",


use rule collect as claims with:
    input:
        lambda wildcards: files(claimed(), "run.json"),
        scores="results/{scale}/scores.csv",
        paper=PAPER,
    output:
        csv="results/{scale}/claims.csv",
        md="results/{scale}/claims.md",
        html=in_report("results/{scale}/claims.html", "Tables", "claims", table="claims"),
    log:
        "results/{scale}/logs/claims.log",
    params:
        call="claims --scale {scale}",
        content=lambda wildcards: resolve.fingerprint([STUDY.catalogue["claims"], described(claimed())]),
        scale=SCALE_NOTE,


use rule collect as compare with:
    input:
        scores="results/{scale}/scores/{a}.vs.{b}.csv",
    output:
        csv="results/{scale}/compare/{a}.vs.{b}.csv",
        md="results/{scale}/compare/{a}.vs.{b}.md",
        pdf="results/{scale}/compare/{a}.vs.{b}.pdf",
        png="results/{scale}/compare/{a}.vs.{b}.png",
    log:
        "results/{scale}/logs/compare.{a}.vs.{b}.log",
    params:
        call=lambda wildcards: f"compare {wildcards.a} {wildcards.b} --scale {SCALE} {shared_mode(wildcards)}",
        content=lambda wildcards: described(named(wildcards)),


use rule collect as gallery with:
    input:
        files(JUDGED, "samples/done.json"),
        "results/{scale}/scores.csv",
    output:
        pages=directory("results/{scale}/gallery"),
        single=in_report("results/{scale}/gallery.html", "Gallery", "gallery", gallery="all runs"),
    log:
        "results/{scale}/logs/gallery.log",
    params:
        call="gallery --scale {scale}",
        content=described(JUDGED),
        scale=SCALE_NOTE,
