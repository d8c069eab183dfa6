# make demo        a short UniGRPO beside SFT: pictures, gallery, table in three minutes
# make reproduce   environment, training, evaluation, tables, figures, gallery   SCALE=smoke|cpu|gpu|paper|sd35 SEEDS=n CORES=n
# make overoptimise                         reward hacking: regularisers on a proxy that gives way, their tables and figures
# make test        the tests of minutes                     make test-slow   those that take an hour
# make run RUN=unigrpo   one run with its evaluation         make base   train the base and the starts that are shipped
# WITH="code=keep state=anew weights=accept published=use"   words that take or leave what is out of date: docs/running.md
SCALE ?= cpu
CORES ?= 2
PYTHON ?= python3
TESTS = .venv/bin/python -m pytest -q -n auto --dist loadfile
STAMP := .venv/installed
# The source of the checkout that .venv was made for, where that is another one. This checkout's code runs all the same.
OWNER := $(shell cat .venv/lib/*/site-packages/__editable__.unigrpo-*.pth 2> /dev/null)
OTHER := $(shell test -e "$(OWNER)" && ! test "$(OWNER)" -ef src && echo "$(OWNER)")
export PYTHONPATH := $(CURDIR):$(CURDIR)/src
# A Ctrl-C reaches make, this shell and the command; a SIGTERM to make reaches the shell alone, which hands it on. The
# command then ends in one line, to which make would add its own if the shell failed.
CALL = @trap 'stopped=1; kill $$!' HUP INT TERM; .venv/bin/python -m unigrpo $(1) & \
	while wait $$!; code=$$?; kill -0 $$! 2> /dev/null; do :; done; exit $$((stopped ? 0 : code))
OPTIONS = --scale '$(SCALE)' --cores $(CORES)
SEVERAL = $(if $(SEEDS),--seeds $(SEEDS)) $(WITH:%=--with '%')

.PHONY: demo reproduce overoptimise run base test test-slow env clean

demo: env
	$(call CALL,demo $(OPTIONS) $(WITH:%=--with '%'))

reproduce: env
	$(call CALL,reproduce $(OPTIONS) $(SEVERAL))

overoptimise: env
	$(call CALL,reproduce $(OPTIONS) $(SEVERAL) --group overoptimisation)

run: env
	$(if $(RUN),,$(error RUN is missing: make run RUN=unigrpo))$(call CALL,run '$(RUN)' $(OPTIONS) $(SEVERAL))

base: env
	$(call CALL,base $(OPTIONS))

test: env
	$(TESTS) -m "not long"

test-slow: env
	$(TESTS) -m long

ifeq ($(OTHER),)
env: $(STAMP)
else
env:
	@echo ".venv stays as it is: it was made for $(OTHER)" >&2
endif

$(STAMP): requirements.lock torch.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --no-deps --requirement requirements.lock
	.venv/bin/python -m pip install --quiet --requirement torch.lock
	.venv/bin/python -m pip install --quiet --no-deps --editable .
	touch $(STAMP)

clean:
	rm -rf .venv .snakemake $(filter-out results/reference,$(wildcard results/*))
