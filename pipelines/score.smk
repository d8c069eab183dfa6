"""Images of every evaluation set, and what the judges say of them."""


rule sample:
    input:
        config="results/{scale}/runs/{run}/seed{seed}/evaluation.json",
        model=f"results/{{scale}}/runs/{{run}}/seed{{seed}}/{WEIGHTS}",
        decoding="results/{scale}/decoding.json",
    output:
        done="results/{scale}/runs/{run}/seed{seed}/samples/done.json",
    log:
        "results/{scale}/logs/sample.{run}.{seed}.log",
    benchmark:
        "results/{scale}/benchmarks/sample.{run}.{seed}.jsonl"
    priority: 1
    conda:
        "../environment.yml"
    threads: THREADS
    resources:
        gpu=GPUS,
        first_gpu=GPUS,
        mem_mb=MEMORY,
        runtime=MINUTES,
    params:
        modes=modes,
        run=subpath(input.model, parent=True),
        out=subpath(output.done, parent=True),
    shell:
        "python -m unigrpo.sampling.sets --config {input.config:q} --decoding {input.decoding:q} --modes {params.modes}"
        " --run {params.run:q} --out {params.out:q} 2>&1 | tee {log:q}"


rule score:
    input:
        done="results/{scale}/runs/{run}/seed{seed}/samples/done.json",
        reward="results/{scale}/reward/model.safetensors",
        detector=DETECTOR / "detector.json",
        weights=DETECTOR / "detector.safetensors",
    output:
        scores="results/{scale}/runs/{run}/seed{seed}/scores.jsonl",
    log:
        "results/{scale}/logs/score.{run}.{seed}.log",
    benchmark:
        "results/{scale}/benchmarks/score.{run}.{seed}.jsonl"
    conda:
        "../environment.yml"
    threads: THREADS
    resources:
        gpu=GPUS,
        first_gpu=GPUS,
        mem_mb=MEMORY,
        runtime=MINUTES,
    params:
        samples=subpath(input.done, parent=True),
        reward=subpath(input.reward, parent=True),
        detector=subpath(input.detector, parent=True),
    shell:
        "python -m unigrpo score --samples {params.samples:q} --reward {params.reward:q} --detector {params.detector:q}"
        " --out {output.scores:q} 2>&1 | tee {log:q}"
