"""Images of every evaluation set, and what the judges say of them."""


rule sample:
    input:
        model=checkpoint_in(RUN)["model"],
        decoding="results/{scale}/decoding.json",
    output:
        done=f"{RUN}/samples/done.json",
    log:
        text="results/{scale}/logs/sample.{run}.{seed}.log",
        usage="results/{scale}/benchmarks/sample.{run}.{seed}.jsonl",
    priority: 1
    conda:
        "../environment.yml"
    threads: THREADS
    resources:
        **ALONE,
    params:
        settings=settings("evaluation"),
        modes=modes,
        model=subpath(input.model, parent=True),
        out=subpath(output.done, parent=True),
    shell:
        "python -m unigrpo --record {log.usage:q} sample-sets --scale {wildcards.scale} --run {wildcards.run}"
        " --seed {wildcards.seed} {params.modes} --decoding {input.decoding:q} --model {params.model:q}"
        " --out {params.out:q} 2>&1 | tee {log.text:q}"


rule score:
    input:
        done=f"{RUN}/samples/done.json",
        reward="results/{scale}/reward/model.safetensors",
        detector=DETECTOR / "detector.json",
        weights=DETECTOR / "detector.safetensors",
    output:
        scores=f"{RUN}/scores.jsonl",
    log:
        text="results/{scale}/logs/score.{run}.{seed}.log",
        usage="results/{scale}/benchmarks/score.{run}.{seed}.jsonl",
    conda:
        "../environment.yml"
    threads: THREADS
    resources:
        **ALONE,
    params:
        samples=subpath(input.done, parent=True),
        reward=subpath(input.reward, parent=True),
        detector=subpath(input.detector, parent=True),
    shell:
        "python -m unigrpo --record {log.usage:q} score --samples {params.samples:q} --reward {params.reward:q}"
        " --detector {params.detector:q} --out {output.scores:q} 2>&1 | tee {log.text:q}"
