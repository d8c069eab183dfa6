"""From scores to claims, tables, figures, the gallery and the front page. What the default target shows is made from one scores.csv."""


rule collect:
    input:
        lambda wildcards: files(named(wildcards), "scores.jsonl"),
        anew=anew("collect", "results/{scale}/scores.csv", collected),
    output:
        scores="results/{scale}/scores.csv",
    log:
        **logs("collect"),
    localrule: True
    conda:
        "../environment.yml"
    params:
        call=collection,
        given=lambda wildcards, input: options(input),
        made=made(collected),
    shell:
        "python -m unigrpo --record {log.record:q} --made {params.made:q} {params.call} {params.given:q} 2>&1"
        " | tee -i {log.text:q}"


use rule collect as collect_apart with:
    input:
        lambda wildcards: files(named(wildcards), f"{sets(wildcards)}scores.jsonl"),
        anew=anew("collect.{kind}.{name}", "results/{scale}/scores/{kind}.{name}.csv", collected),
    output:
        scores="results/{scale}/scores/{kind}.{name}.csv",
    log:
        **logs("collect.{kind}.{name}"),


use rule collect as collect_two with:
    input:
        lambda wildcards: files(named(wildcards), "scores.jsonl"),
        anew=anew("collect.{a}.vs.{b}", "results/{scale}/scores/{a}.vs.{b}.csv", collected),
    output:
        scores="results/{scale}/scores/{a}.vs.{b}.csv",
    log:
        **logs("collect.{a}.vs.{b}"),


use rule collect as table with:
    input:
        records,
        scores=scores,
        paper=PAPER,
        anew=anew("{kind}.{name}", "results/{scale}/{kind}s/{name}.csv", shown),
    output:
        csv="results/{scale}/{kind}s/{name}.csv",
        md="results/{scale}/{kind}s/{name}.md",
        tex="results/{scale}/{kind}s/{name}.tex",
        html=in_report("results/{scale}/{kind}s/{name}.html", "Tables", table="{name}"),
    log:
        **logs("{kind}.{name}"),
    wildcard_constraints:
        kind="table",
    params:
        call="{kind} {name} --scale {scale}",
        made=made(shown),
        caption=lambda wildcards: facts(wildcards).caption,
        scale=SCALE_NOTE,


use rule table as figure with:
    output:
        csv="results/{scale}/{kind}s/{name}.csv",
        pdf="results/{scale}/{kind}s/{name}.pdf",
        png=in_report("results/{scale}/{kind}s/{name}.png", "Figures", figure="{name}"),
    wildcard_constraints:
        kind="figure",


use rule collect as claims with:
    input:
        lambda wildcards: files(claimed(), "run.json"),
        scores="results/{scale}/scores.csv",
        paper=PAPER,
        anew=anew("claims", "results/{scale}/claims.csv", shown_in_claims),
    output:
        csv="results/{scale}/claims.csv",
        md="results/{scale}/claims.md",
        html=in_report("results/{scale}/claims.html", "Tables", table="claims"),
    log:
        **logs("claims"),
    params:
        call="claims --scale {scale}",
        made=made(shown_in_claims),
        caption=phrases.CLAIMS,
        scale=SCALE_NOTE,


use rule collect as compare with:
    input:
        scores="results/{scale}/scores/{a}.vs.{b}.csv",
        anew=anew("compare.{a}.vs.{b}", "results/{scale}/compare/{a}.vs.{b}.csv", shown),
    output:
        csv="results/{scale}/compare/{a}.vs.{b}.csv",
        md="results/{scale}/compare/{a}.vs.{b}.md",
    log:
        **logs("compare.{a}.vs.{b}"),
    params:
        call="compare {a} {b} --scale {scale}",
        made=made(shown),


use rule collect as gallery with:
    input:
        files(JUDGED, "samples/done.json"),
        "results/{scale}/scores.csv",
        anew=anew("gallery", "results/{scale}/gallery.html", shown),
    output:
        pages=directory("results/{scale}/gallery"),
        single=in_report("results/{scale}/gallery.html", "Gallery", gallery="all runs"),
    log:
        **logs("gallery"),
    params:
        call="gallery --scale {scale}",
        made=made(shown),
        caption=phrases.GALLERY,
        scale=SCALE_NOTE,


use rule gallery as gallery_group with:
    input:
        lambda wildcards: files(named(wildcards), f"{sets(wildcards)}scores.jsonl"),
        anew=anew("gallery.{group}", "results/{scale}/gallery_{group}.html", shown),
    output:
        pages=directory("results/{scale}/gallery_{group}"),
        single=in_report("results/{scale}/gallery_{group}.html", "Gallery", gallery="{group}"),
    log:
        **logs("gallery.{group}"),
    params:
        call="gallery --scale {scale} --group {group}",


use rule collect as index with:
    input:
        listed(),
        anew=anew("index", "results/{scale}/index.html", shown_in_front),
    output:
        html="results/{scale}/index.html",
        words="results/{scale}/index.rst",
    log:
        **logs("index"),
    params:
        call="index --scale {scale}",
        made=made(shown_in_front),
