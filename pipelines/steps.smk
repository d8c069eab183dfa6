"""The steps of a study: the supervised runs, the choice of decoding, the learned reward, reinforcement, samples, scores.

A step is given the scale, the run and the seed, and reads its settings from the catalogue itself. Its record holds what
it was made from; by that it is made anew (`anew`). Its named inputs are options of its command. A step that trains or
samples the model has all processes of the scale, but for the base's training. A run's folder also holds `state/` and
`metrics.jsonl`; they are not declared as outputs, which Snakemake removes when a job fails or starts anew, so that an
interrupted training resumes from them.

Priorities: what reinforcement waits for comes first, then training, then sampling, then scoring, so that the last jobs
are short ones and no core waits for a training that began late.
"""

TUNED = decides("tune.{seed}")
TRAINING = decides("train.{run}.{seed}")
DRAWN = decides("reward_data.{seed}")
REWARDED = decides("{reward}.{seed}")
SETS = decides("sample.{run}.{seed}")
GIVEN = decides("outside.{run}.{seed}")
JUDGES = decides("score.{run}.{seed}")
SETS_OF_GROUP = decides("sample.{run}.{seed}.{group}")
JUDGES_OF_GROUP = decides("score.{run}.{seed}.{group}")


rule tune:
    input:
        model=MODEL_OF_SFT,
        anew=anew("tune.{seed}", f"{START}/decoding.json", TUNED),
    output:
        decoding=f"{START}/decoding.json",
    log:
        **logs("tune.{seed}"),
    priority: 2
    conda:
        "../environment.yml"
    threads: THREADS * PROCESSES
    resources:
        **TOGETHER,
    params:
        launch=launcher(PROCESSES),
        call="tune --scale {scale} --run sft --seed {seed}",
        given=step_options,
        made=made(),
    shell:
        "{params.launch} unigrpo --record {log.record:q} --made {params.made:q} {params.call} {params.given:q} 2>&1"
        " | tee -i {log.text:q}"


use rule tune as train with:
    input:
        given_files,
        init=parent_model,
        reward=reward_model,
        decoding=f"{START}/decoding.json",
        anew=anew("train.{run}.{seed}", checkpoint_in(RUN)["model"], TRAINING),
    output:
        **checkpoint_in(RUN),
    log:
        **logs("train.{run}.{seed}"),
    wildcard_constraints:
        run=any_of("rl"),
    params:
        call=training,
        made=made(),


use rule train as sft with:
    input:
        init=parent_model,
        anew=anew("sft.{run}.{seed}", checkpoint_in(RUN)["model"], TRAINING),
    log:
        **logs("sft.{run}.{seed}"),
    wildcard_constraints:
        run=any_of("sft"),


use rule train as pretrain with:
    input:
        anew=anew("pretrain.{run}.{seed}", checkpoint_in(RUN)["model"], TRAINING),
    output:
        **checkpoint_in(RUN),
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
        anew=anew("reward_data.{seed}", f"{START}/reward_data/images.npy", DRAWN),
    output:
        images=f"{START}/reward_data/images.npy",
        manifest=f"{START}/reward_data/manifest.jsonl",
    log:
        **logs("reward_data.{seed}"),
    priority: 3
    params:
        call="reward-data --scale {scale} --run sft --seed {seed}",
        made=made(),


use rule tune as learned_reward with:
    input:
        f"{START}/reward_data/manifest.jsonl",
        data=f"{START}/reward_data/images.npy",
        anew=anew("{reward}.{seed}", f"{START}/{{reward}}/model.safetensors", REWARDED),
    output:
        model=f"{START}/{{reward}}/model.safetensors",
        card=f"{START}/{{reward}}/model.json",
        report=f"{START}/{{reward}}/report.json",
        record=f"{START}/{{reward}}/run.json",
    log:
        **logs("{reward}.{seed}"),
    wildcard_constraints:
        reward="|".join(LEARNED),
    priority: 3
    threads: THREADS
    resources:
        **ALONE,
    params:
        launch=launcher(1),
        call="train-reward --scale {scale} --run sft --seed {seed} --settings {reward}",
        made=made(),


use rule tune as sample with:
    input:
        model=its_model,
        decoding=f"{START}/decoding.json",
        anew=anew("sample.{run}.{seed}", f"{RUN}/samples/done.json", SETS),
    output:
        done=f"{RUN}/samples/done.json",
    log:
        **logs("sample.{run}.{seed}"),
    wildcard_constraints:
        run=any_of("base", "sft", "rl"),
    priority: 1
    params:
        call=lambda wildcards: f"sample-sets --scale {SCALE} --run {wildcards.run} --seed {wildcards.seed} {modes(wildcards)}",
        made=made(),


use rule sample as ceiling with:
    input:
        traces_of_parent,
        model=its_model,
        decoding=f"{START}/decoding.json",
        anew=anew("sample.{run}.{seed}", f"{RUN}/samples/done.json", SETS),
    output:
        done=f"{RUN}/samples/done.json",
        record=f"{RUN}/run.json",
    wildcard_constraints:
        run=any_of(catalogue.CEILING),


use rule sample as sample_group with:
    input:
        traces_of_parent,
        model=its_model,
        decoding=f"{START}/decoding.json",
        anew=anew("sample.{run}.{seed}.{group}", f"{RUN}/samples_{{group}}/done.json", SETS_OF_GROUP),
    output:
        done=f"{RUN}/samples_{{group}}/done.json",
    log:
        **logs("sample.{run}.{seed}.{group}"),
    wildcard_constraints:
        run=any_of("base", "sft", "rl", catalogue.CEILING),
    params:
        call=lambda wildcards: f"sample-sets --scale {SCALE} --run {wildcards.run} --seed {wildcards.seed} {modes(wildcards)} --group {wildcards.group}",


use rule tune as outside with:
    input:
        pictures=lambda wildcards: STUDY.outside(wildcards.run, int(wildcards.seed)),
        anew=anew("outside.{run}.{seed}", f"{RUN}/samples/done.json", GIVEN),
    output:
        done=f"{RUN}/samples/done.json",
        record=f"{RUN}/run.json",
    log:
        **logs("outside.{run}.{seed}"),
    wildcard_constraints:
        run=any_of(catalogue.OUTSIDE),
    priority: 1
    threads: THREADS
    resources:
        **ALONE,
    params:
        launch=launcher(1),
        call="take-images --scale {scale} --run {run} --seed {seed}",
        made=made(),


use rule tune as score with:
    input:
        DETECTOR / "detector.safetensors",
        samples=unless_published(f"{RUN}/samples/done.json"),
        reward=unless_published(f"{START}/reward/model.safetensors"),
        detector=DETECTOR / "detector.json",
        anew=anew("score.{run}.{seed}", f"{RUN}/scores.jsonl", JUDGES),
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
        made=made(),


use rule score as score_group with:
    input:
        DETECTOR / "detector.safetensors",
        samples=f"{RUN}/samples_{{group}}/done.json",
        reward=f"{START}/reward/model.safetensors",
        detector=DETECTOR / "detector.json",
        anew=anew("score.{run}.{seed}.{group}", f"{RUN}/samples_{{group}}/scores.jsonl", JUDGES_OF_GROUP),
    output:
        scores=f"{RUN}/samples_{{group}}/scores.jsonl",
    log:
        **logs("score.{run}.{seed}.{group}"),


rule ship:
    input:
        whole_starts,
    log:
        f"results/{SCALE}/logs/ship.log",
    localrule: True
    conda:
        "../environment.yml"
    params:
        scale=SCALE,
    shell:
        "python -m unigrpo ship --scale {params.scale} 2>&1 | tee {log:q}"
