# Two commands: `make paper` regenerates every result, `make test` checks every part. Both make their own environment.
#   make paper PROFILE=smoke|paper|full DATASET=npz:my.npz SEED=0 ONLY="00 02" PARAMETERS="shown=conv3"
#   PYTHON=path uses an environment that already has torch (conda, a CPU build) instead of making .venv.

PROFILE ?= paper
DATASET ?= fashion-mnist
SEED ?= 0
ifdef PYTHON
RUN := $(PYTHON)
else
RUN := .venv/bin/python
endif
STAMP := build/environment-$(subst /,-,$(RUN)).stamp
BASE ?= $(shell for python in python3.11 python3.12 python3.13 python3; do command -v $$python && break; done)

.DEFAULT_GOAL := help
.PHONY: help env paper stability publish lab site site-test course test lint bench clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

env: $(STAMP)  ## make the environment (torch's default Linux build is several GB)

$(STAMP): pyproject.toml constraints.txt
ifndef PYTHON
	@test -n "$(BASE)" || { echo "Python 3.11 or newer is needed; none was found on PATH"; exit 1; }
	test -x .venv/bin/python || $(BASE) -m venv .venv
endif
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable ".[paper,site,test]"
	@mkdir -p build && touch $@

paper: env  ## regenerate every result under build/ and print the table of claims
	$(RUN) -m convergent_utils.paper.run paper --profile $(PROFILE) --dataset $(DATASET) --seed $(SEED) \
	  $(if $(ONLY),--only $(ONLY)) $(if $(PARAMETERS),--parameter $(PARAMETERS))

stability: env  ## the verdicts of notebooks 00 to 05 at two further base seeds (about half an hour; can be resumed)
	$(RUN) -m convergent_utils.paper.run stability

publish: env  ## copy the last run of the paper into notebooks/, data/ and README.md
	$(RUN) -m convergent_utils.paper.run publish

lab: env  ## open the notebooks in JupyterLab, for this machine alone and with a token
	$(RUN) -m jupyterlab --ServerApp.ip=127.0.0.1 --ServerApp.root_dir=$(CURDIR)/notebooks

site: env  ## the paper as static pages in build/site, from its last run
	$(RUN) -m convergent_utils.paper.site

site-test: env  ## look at every page of the site in a browser
	$(RUN) -m pytest -m site -s tests/browser/test_static_site.py

course: env  ## the notebooks for students and for teachers, in build/course
	$(RUN) -m convergent_utils.paper.run course

lint: env  ## style of code, docstrings and notebooks; environment.yml up to date
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check --exclude '*.ipynb' .
	$(RUN) convergent_utils/paper/environment.py --check

test: lint  ## lint, unit tests and the notebooks on planted networks
	$(RUN) -m pytest -m "not benchmark and not site" --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

bench: env  ## ratios of timings against the usual tools
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(RUN) -m pytest -m benchmark -s tests/benchmarks

clean:  ## remove everything that was made, but the environment
	rm -rf build/notebooks build/results build/stability build/site* build/screenshots build/course build/store
