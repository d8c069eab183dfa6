"""The supervised runs, the choice of decoding, the learned reward, and reinforcement.

A step is given the scale, the run and the seed, and reads its settings from the catalogue itself; the fingerprint among
its parameters is of the settings that it depends on. A run's folder also holds `state/` and `metrics.jsonl`; they are
not declared as outputs, which Snakemake removes when a job fails or starts anew, so that an interrupted training resumes
from them.

Priorities, here and in score.smk: what reinforcement waits for comes first, then training, then sampling, then scoring,
so that the last jobs are short ones and no core waits for a training that began late.
"""


rule train:
    input:
        init=parent_model,
        reward=reward_model,
        decoding="results/{scale}/decoding.json",
        prompts=prompt_file,
    output:
        **checkpoint_in(RUN),
    log:
        text="results/{scale}/logs/train.{run}.{seed}.log",
        usage="results/{scale}/benchmarks/train.{run}.{seed}.jsonl",
    wildcard_constraints:
        run=any_of("rl"),
    priority: 2
    conda:
        "../environment.yml"
    threads: lambda wildcards: THREADS * processes(wildcards)
    resources:
        gpu=lambda wildcards: GPUS * processes(wildcards),
        first_gpu=GPUS,
        mem_mb=lambda wildcards: MEMORY if wildcards.run == catalogue.BASE else MEMORY_OF_ALL,
        runtime=MINUTES,
    params:
        settings=settings("training"),
        launch=launcher,
        given=given,
        out=subpath(output.model, parent=True),
    shell:
        "{params.launch} unigrpo --record {log.usage:q} train --scale {wildcards.scale} --run {wildcards.run}"
        " --seed {wildcards.seed} {params.given:q} --out {params.out:q} 2>&1 | tee {log.text:q}"


use rule train as sft with:
    input:
        init=parent_model,
    log:
        text="results/{scale}/logs/sft.{run}.{seed}.log",
        usage="results/{scale}/benchmarks/sft.{run}.{seed}.jsonl",
    wildcard_constraints:
        run=any_of("sft"),


use rule train as pretrain with:
    input:
        [],
    output:
        **checkpoint_in(PRETRAINED),
    log:
        text="results/{scale}/logs/pretrain.{run}.{seed}.log",
        usage="results/{scale}/benchmarks/pretrain.{run}.{seed}.jsonl",
    wildcard_constraints:
        run=catalogue.BASE,


rule ship_base:
    input:
        model=checkpoint_in(PRETRAINED.format(scale=SCALE, run=catalogue.BASE, seed=0))["model"],
    log:
        f"results/{SCALE}/logs/ship_base.log",
    localrule: True
    conda:
        "../environment.yml"
    params:
        run=subpath(input.model, parent=True),
        shipped=SHIPPED,
    shell:
        "python -m unigrpo ship-base --run {params.run:q} --out {params.shipped:q} 2>&1 | tee {log:q}"


if IS_SHIPPED:

    rule base:
        input:
            SHIPPED_FILES,
        output:
            **checkpoint_in(RUN),
        log:
            "results/{scale}/logs/{run}.{seed}.log",
        wildcard_constraints:
            run=catalogue.BASE,
        localrule: True
        conda:
            "../environment.yml"
        params:
            shipped=SHIPPED,
            out=subpath(output.model, parent=True),
        shell:
            "cp -R {params.shipped:q}/. {params.out:q} 2>&1 | tee {log:q}"


rule tune:
    input:
        model=model_of_sft,
    output:
        decoding="results/{scale}/decoding.json",
    log:
        text="results/{scale}/logs/tune.log",
        usage="results/{scale}/benchmarks/tune.jsonl",
    priority: 2
    conda:
        "../environment.yml"
    threads: THREADS
    resources:
        **ALONE,
    params:
        settings=settings("tuning", catalogue.SFT),
        model=subpath(input.model, parent=True),
    shell:
        "python -m unigrpo --record {log.usage:q} tune --scale {wildcards.scale} --run sft --model {params.model:q}"
        " --out {output.decoding:q} 2>&1 | tee {log.text:q}"


rule reward_data:
    input:
        model=model_of_sft,
    output:
        images="results/{scale}/reward/data/images.npy",
        manifest="results/{scale}/reward/data/manifest.jsonl",
    log:
        text="results/{scale}/logs/reward_data.log",
        usage="results/{scale}/benchmarks/reward_data.jsonl",
    priority: 3
    conda:
        "../environment.yml"
    threads: THREADS
    resources:
        **ALONE,
    params:
        settings=settings("reward", catalogue.SFT),
        model=subpath(input.model, parent=True),
        out=subpath(output.images, parent=True),
    shell:
        "python -m unigrpo --record {log.usage:q} reward-data --scale {wildcards.scale} --run sft"
        " --init {params.model:q} --out {params.out:q} 2>&1 | tee {log.text:q}"


rule learned_reward:
    input:
        images="results/{scale}/reward/data/images.npy",
        manifest="results/{scale}/reward/data/manifest.jsonl",
    output:
        model="results/{scale}/{reward}/model.safetensors",
        card="results/{scale}/{reward}/model.json",
        report="results/{scale}/{reward}/report.json",
        record="results/{scale}/{reward}/run.json",
    log:
        text="results/{scale}/logs/{reward}.log",
        usage="results/{scale}/benchmarks/{reward}.jsonl",
    wildcard_constraints:
        reward="reward|weak_reward",
    priority: 3
    conda:
        "../environment.yml"
    threads: THREADS
    resources:
        **ALONE,
    params:
        settings=lambda wildcards: settings(wildcards.reward, catalogue.SFT)(wildcards),
        data=subpath(input.images, parent=True),
        out=subpath(output.model, parent=True),
    shell:
        "python -m unigrpo --record {log.usage:q} train-reward --scale {wildcards.scale} --run sft"
        " --settings {wildcards.reward} --data {params.data:q} --out {params.out:q} 2>&1 | tee {log.text:q}"
