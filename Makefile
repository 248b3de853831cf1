# The commands of this repository; `make` alone lists them.
PYTHON ?= python3
VENV ?= .venv
MODE ?= $(or $(DISCOVERY),dns)
RESULTS ?= $(if $(QUICK)$(PROJECT),build/experiment-results,docs/experiment-on-a-cluster)

bin = $(VENV)/bin
installed = $(VENV)/installed
# The same environments as those of generated projects in tests and benchmarks, VENV=build/venv.
tools = build/venv-tools/bin
tooled = build/venv-tools/installed
# The environment of baked projects, in tests and in the lab.
shared = build/venv/installed
pytest = $(bin)/python -m pytest -c pyproject.toml
# The project that demo, experiment, faults, and bench run against; by default a newly generated one.
project = $(if $(PROJECT),--project '$(PROJECT)') $(if $(PROJECT_VENV),--venv '$(PROJECT_VENV)')
# Everything in template/ would be copied into a project.
export PYTHONDONTWRITEBYTECODE := 1
# pip refuses PIP_USER in a virtual environment.
export PIP_USER = no
pip = -m pip install --quiet --disable-pip-version-check --require-hashes

.DEFAULT_GOAL := help
.PHONY: help demo test test-cluster conformance lint format bench experiment transitions gitops stress soak faults fuzz wire lock audit docs check clean

##@ See it
demo: ## add, drain, kill, and restart servers while a client calls (PROJECT=path, MODE=dns|native-dns|passthrough|etcd|manual, JSON=1)
	@$(MAKE) --silent --no-print-directory -j2 $(installed) $(if $(PROJECT),,$(shared))
	@$(bin)/python -m lab.demo $(project) --mode $(MODE) $(if $(JSON),--json)

##@ Develop
test: $(installed) ## run all tests that need no cluster: library, server and client, lab, generated projects
	@$(pytest) -q -m "not cluster" -n 2 --dist loadfile

test-cluster: $(installed) ## run the tests that need a cluster (KUBECONFIG, and kubectl on PATH)
	@$(pytest) -q -m cluster -rs

conformance: $(installed) ## test every promise on every source, with a cluster as above; writes docs/conformance.md
	@CONFORMANCE_PAGE=docs/conformance.md REQUIRE_REGISTRIES=etcd,cluster $(pytest) -q tests/discovery/conformance

lint: $(installed) ## check style and types
	@$(bin)/ruff check --config pyproject.toml --no-cache .
	@$(bin)/ruff format --config pyproject.toml --no-cache --check .
	@$(bin)/mypy

check: lint test ## lint and test: what a change must pass

format: $(installed) ## format the code
	@$(bin)/ruff check --config pyproject.toml --no-cache --fix --quiet .
	@$(bin)/ruff format --config pyproject.toml --no-cache .

# An old compiler, because its code works with every protobuf runtime from 4.21 on.
wire: ## generate discovery/wire from its proto
	@rm -rf build/wire && mkdir -p build/wire/tree/discovery && cp discovery/wire/messages.proto build/wire/tree/discovery/
	@$(PYTHON) -m venv build/wire/compiler && build/wire/compiler/bin/python -m pip install --quiet --disable-pip-version-check 'grpcio-tools==1.49.1' 'protobuf<5' 'setuptools<81'
	@$(PYTHON) -m venv build/wire/stubs && build/wire/stubs/bin/python -m pip install --quiet --disable-pip-version-check 'mypy-protobuf==5.1.0'
	@build/wire/compiler/bin/python -m grpc_tools.protoc -I build/wire/tree --python_out=build/wire/tree --mypy_out=quiet:build/wire/tree \
		--plugin=protoc-gen-mypy=build/wire/stubs/bin/protoc-gen-mypy build/wire/tree/discovery/messages.proto
	@sed 's/_descriptor_pool\.Default()/_descriptor_pool.DescriptorPool()/' build/wire/tree/discovery/messages_pb2.py > discovery/wire/messages_pb2.py
	@cp build/wire/tree/discovery/messages_pb2.pyi discovery/wire/

docs: $(installed) ## regenerate what docs/ takes from the code and the data
	@$(bin)/python -m tests.scaffold.settings_page
	@$(bin)/python -m lab.experiment.results docs/experiment-on-a-cluster

clean: ## remove what make has created
	@rm -rf build $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

##@ Dependencies
lock: $(installed) $(tooled) ## update all locks, here and in template/requirements
	@$(tools)/uv pip compile --quiet --upgrade --universal --generate-hashes --no-header --python-version 3.11 requirements.in -o requirements.lock
	@rm -rf build/lock && $(bin)/python -m tests.bake build/lock >&2
	@$(MAKE) --no-print-directory -C build/lock/greeter lock-packages VENV="$$PWD/build/venv"
	@for lock in dev image tools; do \
		sed 's/greeter (pyproject.toml)/{{ cookiecutter.project_slug }} (pyproject.toml)/' build/lock/greeter/requirements/$$lock.lock > template/requirements/$$lock.lock; \
	done

audit: $(tooled) ## check all locks for known vulnerabilities, at api.osv.dev
	@sh template/requirements/audit.sh $(tools)/pip-audit requirements.lock template/requirements/*.lock

##@ Measure
bench: $(installed) ## measure cost and speed, as ratios to peers in the same run (PROJECT=path PART= QUICK=1; build/benchmarks.json)
	@$(bin)/python -m lab.benchmarks $(project) $(PART) $(if $(QUICK),--quick)

experiment: $(installed) ## run the demo's scenario on a cluster, in every mode (PROJECT=path MODES= QUICK=1 STOP_API= START_API= RESTART_DNS=)
	@$(bin)/python -m lab.experiment $(project) \
		--results '$(RESULTS)' $(if $(NAMESPACE),--namespace '$(NAMESPACE)') $(if $(MODES),--modes '$(MODES)') \
		$(if $(QUICK),--quick) $(if $(DRY_RUN),--dry-run)

transitions: $(installed) ## change the mode between every two modes under load, on a cluster (PROJECT=path PAIRS=etcd:dns); writes docs/transitions.md
	@$(bin)/python -m lab.transitions $(project) $(if $(PAIRS),--pairs '$(PAIRS)',--page docs/transitions.md) --json build/transitions.json

gitops: $(installed) ## have Flux's controller, built by Go, apply overlays under load, on a cluster (PROJECT=path); writes docs/gitops.md
	@$(bin)/python -m lab.gitops $(project) $(if $(PROJECT),,--page docs/gitops.md)

stress: $(installed) ## long runs: many endpoints, ten minutes of changes (SECONDS=600), exits, 2,000 channels
	@$(bin)/python -m lab.benchmarks stress --seconds $(or $(SECONDS),600)

soak: $(installed) ## load a server for 5 minutes (SECONDS=300) with everything on, 1 % of its handlers raising (PROJECT=path)
	@$(bin)/python -m lab.benchmarks $(project) soak --seconds $(or $(SECONDS),300)

faults: $(installed) ## run every fault on real servers, registries, and networks (PROJECT=path ONLY=; root, a cluster as above); writes docs/faults.md
	@$(bin)/python -m lab.faults $(project) $(ONLY) --json build/faults.json $(if $(PROJECT),,--page docs/faults.md)

fuzz: $(installed) ## fuzz targets, etcd's values, EndpointSlices, cache files, settings with 100,000 inputs each (EXAMPLES=, GRAMMAR=)
	@$(bin)/python -m lab.fuzz $(GRAMMAR) --inputs $(or $(EXAMPLES),100000)

$(installed): requirements.lock
	@command -v $(PYTHON) >/dev/null || { echo "make: no '$(PYTHON)' on PATH; install Python 3.11 or newer, or say make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is older than 3.11; say make PYTHON=python3.11" >&2; exit 1; }
	@echo "installing into $(VENV) (once, about half a minute)" >&2
	@$(PYTHON) -m venv $(VENV)
	@$(bin)/python $(pip) -r requirements.lock
	@touch $@

# As a project's own Makefile does it; here so that it runs beside the one above.
$(shared): template/requirements/dev.lock
	@echo "installing into build/venv (once, about half a minute)" >&2
	@mkdir -p build
	@$(PYTHON) -m venv build/venv
	@build/venv/bin/python $(pip) -r $<
	@touch $@

$(tooled): template/requirements/tools.lock
	@mkdir -p build
	@$(PYTHON) -m venv build/venv-tools
	@$(tools)/python $(pip) -r $<
	@touch $@

##@ Help
help: ## print this list
	@[ -t 1 ] && color=1 || color=; awk -v color=$$color \
		'BEGIN {FS = ":.*## "; if (color) {bold = "\033[1m"; blue = "\033[36m"; plain = "\033[0m"}} \
		/^##@/ {print "\n" bold substr($$0, 5) plain} \
		/^[a-z-]+:.*## / {gsub(/\$$\$$/, "$$"); printf "  %s%-13s%s %s\n", blue, $$1, plain, $$2}' $(MAKEFILE_LIST)
