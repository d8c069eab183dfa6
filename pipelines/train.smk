"""Configurations, the supervised runs, the choice of decoding, the learned reward, and reinforcement.

Every step reads a run's whole configuration from a file of its own, which is rewritten only when the settings that
matter to that step have changed. A run's folder also holds `state/` and `metrics.jsonl`; they are not declared as
outputs, which Snakemake removes when a job fails or starts anew, so that an interrupted training resumes from them.

Priorities, here and in score.smk: what reinforcement waits for comes first, then training, then sampling, then scoring,
so that the last jobs are short ones and no core waits for a training that began late.
"""


rule config:
    input:
        catalogue=ancient(CATALOGUE_FILE),
        scale_file=ancient(SCALE_FILE),
    output:
        config="results/{scale}/runs/{run}/seed{seed}/{part}.json",
    log:
        "results/{scale}/logs/{part}.{run}.{seed}.log",
    wildcard_constraints:
        part="|".join(resolve.PARTS),
    localrule: True
    conda:
        "../environment.yml"
    params:
        settings=settings,
    shell:
        "python -m unigrpo.study.resolve --catalogue {input.catalogue:q} --scale-file {input.scale_file:q} --run {wildcards.run}"
        " --seed {wildcards.seed} --out {output.config:q} 2>&1 | tee {log:q}"


rule pretrain:
    input:
        config="results/{scale}/runs/base/seed0/training.json",
    output:
        model=f"{PRETRAINED}/{WEIGHTS}",
        card=f"{PRETRAINED}/model.json",
        tokenizer=kept(f"{PRETRAINED}/{TOKENIZER}"),
        record=f"{PRETRAINED}/run.json",
    log:
        "results/{scale}/logs/pretrain.log",
    benchmark:
        "results/{scale}/benchmarks/pretrain.jsonl"
    conda:
        "../environment.yml"
    threads: THREADS
    resources:
        gpu=GPUS,
        first_gpu=GPUS,
        mem_mb=MEMORY,
        runtime=MINUTES,
    params:
        out=subpath(output.model, parent=True),
    shell:
        "python -m unigrpo train --config {input.config:q} --out {params.out:q} 2>&1 | tee {log:q}"


rule ship_base:
    input:
        model=f"{PRETRAINED}/{WEIGHTS}".format(scale=SCALE),
    log:
        f"results/{SCALE}/logs/ship_base.log",
    localrule: True
    conda:
        "../environment.yml"
    params:
        run=subpath(input.model, parent=True),
        shipped=SHIPPED,
    shell:
        "python -m unigrpo.tools.ship --run {params.run:q} --out {params.shipped:q} 2>&1 | tee {log:q}"


if IS_SHIPPED:

    rule base:
        input:
            SHIPPED_FILES,
        output:
            model="results/{scale}/runs/base/seed0/model.safetensors",
            card="results/{scale}/runs/base/seed0/model.json",
            tokenizer=directory("results/{scale}/runs/base/seed0/tokenizer"),
            record="results/{scale}/runs/base/seed0/run.json",
        log:
            "results/{scale}/logs/base.log",
        localrule: True
        conda:
            "../environment.yml"
        params:
            shipped=SHIPPED,
            out=subpath(output.model, parent=True),
        shell:
            "cp -R {params.shipped:q}/. {params.out:q} 2>&1 | tee {log:q}"


rule sft:
    input:
        config="results/{scale}/runs/{run}/seed{seed}/training.json",
        parent=parent_model,
    output:
        model=f"results/{{scale}}/runs/{{run}}/seed{{seed}}/{WEIGHTS}",
        card="results/{scale}/runs/{run}/seed{seed}/model.json",
        tokenizer=kept(f"results/{{scale}}/runs/{{run}}/seed{{seed}}/{TOKENIZER}"),
        record="results/{scale}/runs/{run}/seed{seed}/run.json",
    log:
        "results/{scale}/logs/sft.{run}.{seed}.log",
    benchmark:
        "results/{scale}/benchmarks/sft.{run}.{seed}.jsonl"
    wildcard_constraints:
        run=any_of("sft"),
    priority: 2
    conda:
        "../environment.yml"
    threads: THREADS * PROCESSES
    resources:
        gpu=GPUS * PROCESSES,
        first_gpu=GPUS,
        mem_mb=MEMORY_OF_ALL,
        runtime=MINUTES,
    params:
        launch=launcher(),
        parent=subpath(input.parent, parent=True),
        out=subpath(output.model, parent=True),
    shell:
        "{params.launch} unigrpo train --config {input.config:q} --init {params.parent:q}"
        " --out {params.out:q} 2>&1 | tee {log:q}"


rule tune:
    input:
        config="results/{scale}/runs/sft/seed0/tuning.json",
        model=f"results/{{scale}}/runs/sft/seed0/{WEIGHTS}",
    output:
        decoding="results/{scale}/decoding.json",
    log:
        "results/{scale}/logs/tune.log",
    benchmark:
        "results/{scale}/benchmarks/tune.jsonl"
    priority: 2
    conda:
        "../environment.yml"
    threads: THREADS
    resources:
        gpu=GPUS,
        first_gpu=GPUS,
        mem_mb=MEMORY,
        runtime=MINUTES,
    params:
        run=subpath(input.model, parent=True),
    shell:
        "python -m unigrpo.sampling.decoding --config {input.config:q} --run {params.run:q}"
        " --out {output.decoding:q} 2>&1 | tee {log:q}"


rule reward_data:
    input:
        config="results/{scale}/runs/sft/seed0/reward.json",
        model=f"results/{{scale}}/runs/sft/seed0/{WEIGHTS}",
    output:
        images="results/{scale}/reward/data/images.npy",
        manifest="results/{scale}/reward/data/manifest.jsonl",
    log:
        "results/{scale}/logs/reward_data.log",
    benchmark:
        "results/{scale}/benchmarks/reward_data.jsonl"
    priority: 3
    conda:
        "../environment.yml"
    threads: THREADS
    resources:
        gpu=GPUS,
        first_gpu=GPUS,
        mem_mb=MEMORY,
        runtime=MINUTES,
    params:
        run=subpath(input.model, parent=True),
        out=subpath(output.images, parent=True),
    shell:
        "python -m unigrpo reward-data --config {input.config:q} --init {params.run:q}"
        " --out {params.out:q} 2>&1 | tee {log:q}"


rule learned_reward:
    input:
        config="results/{scale}/runs/sft/seed0/reward.json",
        images="results/{scale}/reward/data/images.npy",
        manifest="results/{scale}/reward/data/manifest.jsonl",
    output:
        model="results/{scale}/reward/model.safetensors",
        card="results/{scale}/reward/model.json",
        report="results/{scale}/reward/report.json",
        record="results/{scale}/reward/run.json",
    log:
        "results/{scale}/logs/learned_reward.log",
    benchmark:
        "results/{scale}/benchmarks/learned_reward.jsonl"
    priority: 3
    conda:
        "../environment.yml"
    threads: THREADS
    resources:
        gpu=GPUS,
        first_gpu=GPUS,
        mem_mb=MEMORY,
        runtime=MINUTES,
    params:
        settings="reward",
        data=subpath(input.images, parent=True),
        out=subpath(output.model, parent=True),
    shell:
        "python -m unigrpo train-reward --config {input.config:q} --settings {params.settings} --data {params.data:q}"
        " --out {params.out:q} 2>&1 | tee {log:q}"


use rule learned_reward as weak_reward with:
    input:
        config="results/{scale}/runs/sft/seed0/weak_reward.json",
        images="results/{scale}/reward/data/images.npy",
        manifest="results/{scale}/reward/data/manifest.jsonl",
    output:
        model="results/{scale}/weak_reward/model.safetensors",
        card="results/{scale}/weak_reward/model.json",
        report="results/{scale}/weak_reward/report.json",
        record="results/{scale}/weak_reward/run.json",
    log:
        "results/{scale}/logs/weak_reward.log",
    benchmark:
        "results/{scale}/benchmarks/weak_reward.jsonl"
    params:
        settings="weak_reward",
        data=subpath(input.images, parent=True),
        out=subpath(output.model, parent=True),


rule train:
    input:
        config="results/{scale}/runs/{run}/seed{seed}/training.json",
        parent=parent_model,
        reward=reward_model,
        decoding="results/{scale}/decoding.json",
        prompts=prompt_file,
    output:
        model=f"results/{{scale}}/runs/{{run}}/seed{{seed}}/{WEIGHTS}",
        card="results/{scale}/runs/{run}/seed{seed}/model.json",
        tokenizer=kept(f"results/{{scale}}/runs/{{run}}/seed{{seed}}/{TOKENIZER}"),
        record="results/{scale}/runs/{run}/seed{seed}/run.json",
    log:
        "results/{scale}/logs/train.{run}.{seed}.log",
    benchmark:
        "results/{scale}/benchmarks/train.{run}.{seed}.jsonl"
    wildcard_constraints:
        run=any_of("rl"),
    priority: 2
    conda:
        "../environment.yml"
    threads: THREADS * PROCESSES
    resources:
        gpu=GPUS * PROCESSES,
        first_gpu=GPUS,
        mem_mb=MEMORY_OF_ALL,
        runtime=MINUTES,
    params:
        launch=launcher(),
        parent=subpath(input.parent, parent=True),
        reward=subpath(input.reward, parent=True),
        out=subpath(output.model, parent=True),
    shell:
        "{params.launch} unigrpo train --config {input.config:q} --init {params.parent:q}"
        " --reward {params.reward:q} --decoding {input.decoding:q}"
        " --out {params.out:q} 2>&1 | tee {log:q}"
