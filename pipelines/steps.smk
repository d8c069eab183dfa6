"""The steps of a study: the supervised runs, the choice of decoding, the learned reward, reinforcement, samples, scores.

A step is given the scale, the run and the seed, and reads its settings from the catalogue itself; the fingerprint among
its parameters is of the settings that it depends on. Its named inputs are options of its command. A step that trains or
samples the model has all processes of the scale, but for the base's training. A run's folder also holds `state/` and
`metrics.jsonl`; they are not declared as outputs, which Snakemake removes when a job fails or starts anew, so that an
interrupted training resumes from them.

Priorities: what reinforcement waits for comes first, then training, then sampling, then scoring, so that the last jobs
are short ones and no core waits for a training that began late.
"""


rule tune:
    input:
        model=MODEL_OF_SFT,
    output:
        decoding="results/{scale}/decoding.json",
    log:
        **logs("tune"),
    priority: 2
    conda:
        "../environment.yml"
    threads: THREADS * PROCESSES
    resources:
        **TOGETHER,
    params:
        launch=launcher(PROCESSES),
        call="tune --scale {scale} --run sft",
        given=step_options,
        settings=settings("tuning", catalogue.SFT),
    shell:
        "{params.launch} unigrpo --record {log.usage:q} {params.call} {params.given:q} 2>&1 | tee {log.text:q}"


use rule tune as train with:
    input:
        prompt_file,
        init=parent_model,
        reward=reward_model,
        decoding="results/{scale}/decoding.json",
    output:
        **checkpoint_in(RUN),
    log:
        **logs("train.{run}.{seed}"),
    wildcard_constraints:
        run=any_of("rl"),
    params:
        call="train --scale {scale} --run {run} --seed {seed}",
        settings=settings("training"),


use rule train as sft with:
    input:
        init=parent_model,
    log:
        **logs("sft.{run}.{seed}"),
    wildcard_constraints:
        run=any_of("sft"),


use rule train as pretrain with:
    input:
        [],
    output:
        **checkpoint_in(PRETRAINED),
    log:
        **logs("pretrain.{run}.{seed}"),
    wildcard_constraints:
        run=catalogue.BASE,
    threads: THREADS
    resources:
        **ALONE,
    params:
        launch=launcher(1),


use rule tune as reward_data with:
    input:
        init=MODEL_OF_SFT,
    output:
        images="results/{scale}/reward/data/images.npy",
        manifest="results/{scale}/reward/data/manifest.jsonl",
    log:
        **logs("reward_data"),
    priority: 3
    params:
        call="reward-data --scale {scale} --run sft",
        settings=settings("reward", catalogue.SFT),


use rule tune as learned_reward with:
    input:
        "results/{scale}/reward/data/manifest.jsonl",
        data="results/{scale}/reward/data/images.npy",
    output:
        model="results/{scale}/{reward}/model.safetensors",
        card="results/{scale}/{reward}/model.json",
        report="results/{scale}/{reward}/report.json",
        record="results/{scale}/{reward}/run.json",
    log:
        **logs("{reward}"),
    wildcard_constraints:
        reward="reward|weak_reward",
    priority: 3
    threads: THREADS
    resources:
        **ALONE,
    params:
        launch=launcher(1),
        call="train-reward --scale {scale} --run sft --settings {reward}",
        settings=lambda wildcards: settings(wildcards.reward, catalogue.SFT)(wildcards),


use rule tune as sample with:
    input:
        model=checkpoint_in(RUN)["model"],
        decoding="results/{scale}/decoding.json",
    output:
        done=f"{RUN}/samples/done.json",
    log:
        **logs("sample.{run}.{seed}"),
    priority: 1
    params:
        call=lambda wildcards: f"sample-sets --scale {SCALE} --run {wildcards.run} --seed {wildcards.seed} {modes(wildcards)}",
        settings=lambda wildcards: [settings("evaluation")(wildcards), SAMPLED],


use rule tune as score with:
    input:
        DETECTOR / "detector.safetensors",
        samples=f"{RUN}/samples/done.json",
        reward="results/{scale}/reward/model.safetensors",
        detector=DETECTOR / "detector.json",
    output:
        scores=f"{RUN}/scores.jsonl",
    log:
        **logs("score.{run}.{seed}"),
    priority: 0
    threads: THREADS
    resources:
        **ALONE,
    params:
        launch=launcher(1),
        call="score",
        settings=JUDGES,


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
