"""UniGRPO, from the catalogue to the tables. `snakemake --cores 2` makes everything of the scale `cpu`.

`--config scale=smoke|cpu|gpu|paper|sd35` chooses a scale, `seeds=1` overrides its number of seeds, `run=NAME` names the run
of the target `one_run`, `group=NAME` the tables and figures of the target `one_group`. What is trained and shown is declared in pipelines/experiments.yaml.
"""

import os
import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.1")

HERE = Path(workflow.basedir)
sys.path.insert(0, str(HERE / "src"))
os.environ.update(
    PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    PYTHONPATH=os.pathsep.join([str(HERE), str(HERE / "src")]),
    PYTHONUNBUFFERED="1",
    # Large tensors from huge pages: a fifth of the processor time of sampling goes into faults of small ones. glibc
    # alone reads this, and no number depends on it.
    GLIBC_TUNABLES=os.environ.get("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"),
)


include: "pipelines/common.smk"
include: "pipelines/steps.smk"
include: "pipelines/report.smk"


report: os.path.abspath(f"results/{SCALE}/index.rst")


rule all:
    default_target: True
    input:
        f"results/{SCALE}/index.html",


onstart:
    print(to_train(), file=sys.stderr)


rule one_run:
    input:
        scores=one_run_scores,


rule one_group:
    input:
        f"results/{SCALE}/index.html",
