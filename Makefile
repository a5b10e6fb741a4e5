# `make demo` shows the answers on sample_logs, `make test` checks the code, `make slow` what takes longer to check. All need
# Python 3.11 or newer and pip.

# python3.11 first: constraints.txt holds the versions that were tested on it.
PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13 python3.14 python; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$python"; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
SEED ?= 1

.PHONY: demo test slow truth histories docs fuzz fuzz-bytes agreement literals faults workspace lake lake-growth lake-kill lake-account lake-million lake-full_disk lake-sync lake-bench spark spark-bench lowest scenario screenshots programs browser bench bench-storage matching memory sanitize cardinality portable wheel sbom audit clean
.DEFAULT_GOAL := test

demo: $(VENV)/.installed
	$(BIN)/flowlens analyze sample_logs

test: $(VENV)/.installed-dev programs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict flowlens bench
	$(BIN)/pytest -n 2 --dist loadgroup --no-skips -m "not slow"

# The tests that `make test` leaves out: clusters, kill -9, builds, limits of memory and others that take seconds each.
slow: $(VENV)/.installed-dev programs
	$(BIN)/pytest -n 2 --dist loadgroup --no-skips -m slow

# Everything that is written by a script: captures, reference, alert rules, workbook. The tests say when it is stale.
docs: $(VENV)/.installed-dev
	$(BIN)/python scripts/build_deploy.py
	$(BIN)/python scripts/build_reference.py
	$(BIN)/python scripts/capture_readme.py
	$(BIN)/python scripts/capture_docs.py

# New random examples, twenty times as many of every test; a failure prints the blob that repeats it. Takes a while.
fuzz: $(VENV)/.installed-dev
	HYPOTHESIS_PROFILE=fuzz $(BIN)/pytest -n 2 --no-skips -m hypothesis

# Hostile bytes under atheris, which finds its way by coverage: SECONDS for each target.
SECONDS ?= 4200
fuzz-bytes: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[fuzz]"
	targets=$$($(BIN)/python -c "from tests.fuzz.targets import TARGETS; print(*TARGETS)") || exit 1; for target in $$targets; do \
		$(BIN)/python -m tests.fuzz $$target $(SECONDS) $(SEED) $(RECORD) || exit 1; done

# What CI adds to `make test` and `make slow`: 200 invented networks, and, in .ci/run, a thousand histories of a lake.
truth: $(VENV)/.installed-dev
	SCENARIOS=200 $(BIN)/pytest -n 2 --dist loadgroup --no-skips tests/test_scenarios.py

histories: $(VENV)/.installed-dev
	HISTORIES=1000 $(BIN)/pytest -n 2 --dist loadgroup --no-skips tests/lake/test_growth.py

# The long forms: more positions, more seeds, more blobs; takes an hour or so.
faults: $(VENV)/.installed-dev
	FAULTS_LONG=1 $(BIN)/pytest -n 2 --dist loadgroup --no-skips tests/faults

# Ten thousand histories of growing blobs, kill -9 at each fsync and at 200 moments, a hundred sizes of disk, a million names. Takes
# some hours; needs root, and strace (apt-get install strace).
lake: $(VENV)/.installed-dev
	LAKE_LONG=1 $(BIN)/pytest -n 2 --dist loadgroup --no-skips tests/lake

# One of them alone: histories; kill -9; faults on the way and commits between list and read; a million names; a full disk; two syncs.
$(addprefix lake-,growth kill account million full_disk sync): lake-%: $(VENV)/.installed-dev
	LAKE_LONG=1 $(BIN)/pytest -n 2 --dist loadgroup --no-skips tests/lake/test_$*.py

# What a lake of 1,000 NICs and 30 days costs to open, to ask for cursors and to commit to.
lake-bench: $(VENV)/.installed-dev
	$(BIN)/python -m bench.lake

# A workspace: 200 runs with random limits, and the answers of 50 invented networks by either way.
workspace: $(VENV)/.installed-dev
	WORKSPACE_LONG=1 $(BIN)/pytest -n 2 --dist loadgroup --no-skips tests/workspace

# The same findings from blobs, rows and queries: 50 networks, some minutes.
agreement: $(VENV)/.installed-dev
	AGREEMENT_LONG=1 $(BIN)/pytest tests/test_agreement.py

# A million hostile texts through the encoder of literals, read back by the language service; about a quarter of an hour.
literals: $(VENV)/.installed-dev
	LITERALS_LONG=1 $(BIN)/pytest tests/test_literals.py

# Pictures of the page on sample_logs, to look at: build/screenshots, and docs/report.png for the README.
screenshots: $(VENV)/.installed-dev browser
	$(BIN)/python scripts/screenshots.py

# What the tests run beside Python: a browser for the page (the one that CHROMIUM names, or the system's), strace for the lake and Java for
# Spark. Root gets them from Debian.
programs: browser
	@command -v strace >/dev/null || $(call from_debian,strace)
	@command -v java >/dev/null || $(call from_debian,default-jre-headless)

browser:
	@for program in "$$CHROMIUM" chromium chromium-browser google-chrome-stable google-chrome; do \
		test -n "$$program" && command -v "$$program" >/dev/null && exit 0; done; $(call from_debian,chromium)

from_debian = { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -qq && \
	apt-get install -y -qq --no-install-recommends $(1) >/dev/null; } || { \
	echo "the tests need $(1): install it, or run make as root where apt-get is" >&2; exit 1; }

# Spark with an executor and a worker killed in the middle, speculation, and faults on the way to the account; some minutes.
spark: $(VENV)/.installed-dev
	SPARK_LONG=1 $(BIN)/pytest --no-skips tests/spark

# Decoding on an executor's core beside one local thread, and from how much on a cluster pays; some minutes.
spark-bench: $(VENV)/.installed-dev
	$(BIN)/python -m bench.spark

# Decoding, rollup and what a task of Spark does with the oldest polars and pyarrow that are allowed: clusters bring their own. The other
# libraries stay as they are.
LOWEST := build/lowest
lowest: $(VENV)/.installed-dev
	rm -rf $(LOWEST)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(LOWEST) $$($(BIN)/python scripts/lowest_versions.py)
	PYTHONPATH=$(LOWEST) $(BIN)/python -c 'import polars, pyarrow; print("polars", polars.__version__, "pyarrow", pyarrow.__version__)'
	PYTHONPATH=$(LOWEST) $(BIN)/pytest --no-skips tests/test_spark_tasks.py tests/test_spark_lake.py tests/test_spark_views.py tests/test_conversations.py tests/test_answers.py tests/formats

scenario: $(VENV)/.installed-dev
	$(BIN)/python -m tests.scenario $(SEED)

bench: $(VENV)/.installed-dev
	$(BIN)/python -m bench

# A million names listed, and 50,000 small blobs from a server on loopback and from disk; half an hour.
bench-storage: $(VENV)/.installed-dev
	$(BIN)/python -m bench.listing
	$(BIN)/python -m bench.storage

# Matching of addresses: against ipaddress on 100,000 nested prefixes of each family, and its cost beside decoding.
matching: $(VENV)/.installed-dev
	MATCHING_LONG=1 $(BIN)/pytest tests/test_prefixes.py
	$(BIN)/python -m bench.matching

# Five million conversations of a scan under a limit of memory, some minutes; CARDINALITY=50 for fifty million, an hour or two.
CARDINALITY ?= 5
cardinality: $(VENV)/.installed-dev
	$(BIN)/python -m bench.cardinality --millions $(CARDINALITY)

# A gigabyte twice; some minutes.
memory: $(VENV)/.installed-dev
	$(BIN)/python -m bench.memory

# The compiled kernel with address and undefined-behaviour sanitizers, over the test data and mutations of it; half a minute.
SEEDS ?= 20
SANITIZED := build/sanitized
sanitize: $(VENV)/.installed-dev
	rm -rf $(SANITIZED)
	FLOWLENS_KERNEL_FLAGS="-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all" \
		$(BIN)/python setup.py --quiet build_ext --build-lib $(SANITIZED) --build-temp $(SANITIZED)
	LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 \
		$(BIN)/python -m tests.sanitize $(SANITIZED)/flowlens/kernel $(SEEDS)

# The decoder that serves without the kernel, which nothing that the compiled one passes would notice.
portable: $(VENV)/.installed-dev
	FLOWLENS_ENGINE=portable $(BIN)/pytest -n 2 --dist loadgroup --no-skips tests/formats tests/test_conversations.py tests/test_answers.py \
		tests/test_sample_logs.py tests/test_invariance.py tests/test_bench.py

# What an installation with all extras for users consists of, as a CycloneDX document, and whether a weakness is known in any of it; the
# latter asks the network. In an environment of its own, that the tools for tests and releases are not in.
SHIPPED := build/shipped
$(SHIPPED)/.installed: pyproject.toml constraints.txt | $(BIN)/pip
	rm -rf $(SHIPPED)
	$(BIN)/python -m venv $(SHIPPED)
	FLOWLENS_PURE=1 $(SHIPPED)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt ".[html,kql,lake,owners]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[release]"
	touch $@

sbom: $(SHIPPED)/.installed
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-file build/sbom.json $(SHIPPED)/bin/python

audit: $(SHIPPED)/.installed
	$(BIN)/python -m pip_audit --strict --requirement constraints.txt --no-deps --disable-pip

# One wheel that runs anywhere, with the portable decoder, and one with the kernel for this platform. Without the old build
# folder, which would carry modules that are gone into the wheel.
wheel: $(VENV)/.installed-dev
	rm -rf build dist
	FLOWLENS_PURE=1 $(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	rm -rf build
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis flowlens/kernel/*.so

KERNEL := $(wildcard flowlens/kernel/*.pyx flowlens/kernel/*.pxd)

# Some systems ship venv without the pip inside it; the pip beside Python then installs one.
$(BIN)/pip:
	@test -n "$(PYTHON)" || { echo "flowlens needs Python 3.11 or newer on the PATH" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { \
		$(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }

$(VENV)/.installed: pyproject.toml setup.py constraints.txt $(KERNEL) | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml setup.py constraints.txt $(KERNEL) | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $(VENV)/.installed $@
