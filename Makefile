# Two commands: `make paper` regenerates every result, `make test` checks every part. Both make their own environment.
#   make paper PROFILE=smoke|paper|full DATASET=npz:my.npz SEED=0 ONLY="00 02" PARAMETERS="shown=conv3" FROM=published
#   PYTHON=path uses an environment that already has torch (conda, a CPU build) instead of making .venv.
# ONLY and PARAMETERS are lists: a value that holds a space is given by `convergent paper --parameter 'NAME=a value'`.

# What these hold is data, whatever its signs: make does not expand it, and a shell reads it from its environment.
override DATASET := $(value DATASET)
override SEED := $(value SEED)
override ONLY := $(value ONLY)
override PARAMETERS := $(value PARAMETERS)
override SEEDS := $(value SEEDS)
override PROFILE := $(value PROFILE)
override PYTHON := $(value PYTHON)
override BASE := $(value BASE)
override FROM := $(value FROM)
override SOLUTIONS := $(value SOLUTIONS)
override PICTURES := $(value PICTURES)
export DATASET SEED SEEDS ONLY PARAMETERS PROFILE PYTHON BASE FROM SOLUTIONS PICTURES
RUN := "$${PYTHON:-.venv/bin/python}"

.DEFAULT_GOAL := help
.PHONY: help env paper stability publish lab site site-test course check kernels test networks test-networks kills lint bench dist clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

env:  ## make the environment (torch's default Linux build is several GB)
	@stamp="build/environment-$$(printf %s $(RUN) | tr -c 'A-Za-z0-9._' -).stamp"; \
	test -e "$$stamp" && test ! pyproject.toml -nt "$$stamp" && test ! constraints.txt -nt "$$stamp" && exit; \
	if test -z "$$PYTHON" && ! test -x .venv/bin/python; then \
	  for python in python3.11 python3.12 python3.13 python3; do \
	    BASE="$${BASE:-$$(command -v $$python)}"; \
	  done; \
	  test -n "$$BASE" || { echo "Python 3.11 or newer is needed; none was found on PATH"; exit 1; }; \
	  "$$BASE" -m venv .venv || exit; \
	fi; \
	for held in "$$(dirname $(RUN))"/../lib/python3*/site-packages/convergent_learning-*.dist-info/direct_url.json; do \
	  test -e "$$held" && ! grep -qF "\"file://$$PWD\"" "$$held" && \
	    echo "this Python held convergent_utils of another folder; from now on it holds that of $$PWD. It was: $$(cat "$$held")"; \
	done; \
	set -x; \
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable ".[paper,site,test]" && \
	  mkdir -p build && touch "$$stamp"

paper: env  ## regenerate every result under build/ and print the table of claims
	@set -f; \
	for name in $$ONLY; do set -- "$$@" --only="$$name"; done; \
	for pair in $$PARAMETERS; do set -- "$$@" --parameter="$$pair"; done; \
	exec $(RUN) -m convergent_utils.cli paper $${PROFILE:+--profile="$$PROFILE"} \
	  $${DATASET:+--dataset="$$DATASET"} $${SEED:+--seed="$$SEED"} $${FROM:+--from="$$FROM"} "$$@"

stability: env  ## the answers of notebooks 00 to 05 at two further base seeds (about half an hour; can be resumed)
	$(RUN) -m convergent_utils.cli stability

publish: env  ## copy the last run of the paper into notebooks/, data/ and README.md
	$(RUN) -m convergent_utils.cli publish

lab: env  ## open the notebooks in JupyterLab, for this machine alone and with a token
	$(RUN) -m jupyterlab --ServerApp.ip=127.0.0.1 --ServerApp.root_dir="$$PWD/notebooks"

site: env  ## the paper as static pages in build/site, from its last run; SOLUTIONS=1 shows those of exercises
	$(RUN) -m convergent_utils.cli site $${SOLUTIONS:+--solutions}

site-test: env  ## look at every page of the site in a browser; PICTURES=1 leaves pictures of them
	$(RUN) -m pytest -m site $${PICTURES:+--pictures} --numprocesses auto --maxprocesses 2 --dist loadgroup tests/browser/test_static_site.py

course: env  ## the notebooks for students and for teachers, in build/course
	$(RUN) -m convergent_utils.cli course

lint: env  ## style of code, docstrings and notebooks, types; environment.yml up to date
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check --exclude '*.ipynb' .
	$(RUN) -m ty check --python $(RUN)
	$(RUN) convergent_utils/edition/environment.py --check

check: lint kernels  ## lint and the tests of the kernels: a minute or two

kernels: env  ## the tests of the kernels alone, with whatever torch is there
	@for file in convergent_utils/kernels/*.py; do \
	  test="tests/test_$$(basename "$$file")"; if test -e "$$test"; then set -- "$$@" "$$test"; fi; \
	done; \
	$(RUN) -m pytest -m "not slow and not benchmark" --numprocesses auto --maxprocesses 4 --dist loadfile "$$@" \
	  tests/test_properties.py tests/test_house.py

test: lint  ## lint, unit tests and the notebooks on planted networks; SEEDS="0 1 2" trains them from several base seeds
	@asked="not benchmark and not site and not kills"; failed=; set -f; \
	for seed in $${SEEDS:-0}; do \
	  echo "base seed $$seed:"; \
	  $(RUN) -m pytest -m "$$asked" --base-seed="$$seed" --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder || failed="$$failed $$seed"; \
	  asked="trained and not kills"; \
	done; \
	test -z "$$failed" || { echo "failed at base seeds$$failed"; exit 1; }

networks: env  ## install timm and transformers, for networks of theirs
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable ".[networks]"

test-networks: env  ## what the tests leave out where timm and transformers are not installed
	$(RUN) -m pytest -m "networks and not benchmark" --numprocesses auto --maxprocesses 4 --dist loadfile \
	  tests/test_architectures.py tests/test_command.py tests/test_compare_loading.py \
	  tests/test_your_networks.py tests/benchmarks/test_own_networks.py

kills: env  ## kill the paper on planted networks ten times and see what it leaves (a quarter of an hour)
	$(RUN) -m pytest -m kills -s tests/test_resume.py

bench: env  ## ratios of timings against the usual tools
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(RUN) -m pytest -m benchmark -s tests/benchmarks tests/test_intervals.py

dist: env  ## the wheel in build/dist, tried in an environment of its own
	$(RUN) -m convergent_utils.edition.wheel

clean:  ## remove everything that was made, but the environment
	rm -rf build/notebooks build/results build/stability build/site* build/screenshots build/course build/dist build/store
