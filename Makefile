# make reproduce   environment, training, evaluation, tables, figures, gallery   SCALE=smoke|cpu|gpu|paper|sd35 SEEDS=n CORES=n
# make overoptimise                         reward hacking: regularisers on a proxy that gives way, their tables and figures
# make test        the tests
# make run RUN=unigrpo   one run with its evaluation         make base   train the base that the repository ships
SCALE ?= cpu
CORES ?= 2
PYTHON ?= python3
STAMP := .venv/installed
REPRODUCE = .venv/bin/python -m unigrpo.tools.reproduce --scale $(SCALE) --cores $(CORES) $(if $(SEEDS),--seeds $(SEEDS))

.PHONY: reproduce overoptimise run base test env clean

reproduce: env
	$(REPRODUCE)

overoptimise: env
	$(REPRODUCE) --group overoptimisation

run: env
	$(if $(RUN),,$(error RUN is missing: make run RUN=unigrpo))$(REPRODUCE) --run $(RUN)

base: env
	$(REPRODUCE) --ship-base

test: env
	.venv/bin/python -m pytest -q -n auto --dist loadfile

env: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --requirement requirements.lock
	.venv/bin/python -m pip install --quiet --no-deps --editable .
	touch $(STAMP)

clean:
	rm -rf .venv .snakemake $(filter-out results/reference,$(wildcard results/*))
