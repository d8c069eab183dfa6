# make reproduce   environment, training, evaluation, tables, figures, gallery   SCALE=smoke|cpu|gpu|paper|sd35 SEEDS=n CORES=n
# make overoptimise                         reward hacking: regularisers on a proxy that gives way, their tables and figures
# make test        the tests of minutes                     make test-slow   those that take an hour
# make run RUN=unigrpo   one run with its evaluation         make base   train the base that the repository ships
SCALE ?= cpu
CORES ?= 2
PYTHON ?= python3
TESTS = .venv/bin/python -m pytest -q -n auto --dist loadfile
STAMP := .venv/installed
UNIGRPO = .venv/bin/python -m unigrpo
OPTIONS = --scale $(SCALE) --cores $(CORES)
SEVERAL = $(if $(SEEDS),--seeds $(SEEDS))

.PHONY: reproduce overoptimise run base test test-slow env clean

reproduce: env
	$(UNIGRPO) reproduce $(OPTIONS) $(SEVERAL)

overoptimise: env
	$(UNIGRPO) reproduce $(OPTIONS) $(SEVERAL) --group overoptimisation

run: env
	$(if $(RUN),,$(error RUN is missing: make run RUN=unigrpo))$(UNIGRPO) run $(RUN) $(OPTIONS) $(SEVERAL)

base: env
	$(UNIGRPO) base $(OPTIONS)

test: env
	$(TESTS) -m "not long"

test-slow: env
	$(TESTS) -m long

env: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --requirement requirements.lock
	.venv/bin/python -m pip install --quiet --no-deps --editable .
	touch $(STAMP)

clean:
	rm -rf .venv .snakemake $(filter-out results/reference,$(wildcard results/*))
