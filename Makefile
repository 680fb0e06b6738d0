# Every target but help and lock first sets up .venv from requirements.lock, unless that has been done: `make repro` works in a fresh clone.
#
#   make repro                      everything: dvc repro, two small models at a time
#   make repro ARGS=-n              as dvc repro -n; ARGS is handed on, here and below
#   make test ARGS="-k catalog"
#   make test JOBS=0 ARGS=--pdb     the tests in one process; JOBS is how many share them
#   make ui PORT=5001
#   make smol DATA=~/MVSA-Single SPLIT=predefined    real posts, with their published lists; without DATA those of data.dvc
#   make PYTHON=python3.12 test     the Python that .venv is made with, 3.11 or newer

PYTHON ?= python3
PORT ?= 5000
JOBS ?= 2
VENV ?= .venv
# A copy of the lock that was installed: written last, so that an installation cut short counts as none.
INSTALLED := "$(VENV)/installed.lock"
# Two makes at once take turns. Where there is no flock (macOS), whoever starts two is on their own.
TAKE_TURNS := $(if $(shell command -v flock),flock "$(VENV)/make.lock")
PIP := "$(VENV)/bin/python" -m pip --disable-pip-version-check $(if $(CI),--quiet)
# The stages in dvc.yaml say `python`.
ON_PATH := PATH="$$(cd "$(VENV)" && pwd)/bin:$$PATH"
RUN := $(ON_PATH) "$(VENV)/bin/python" -m

# Settings of `make smol`, over those of params.yaml. Epochs, layers and positions are those that two cores can afford.
SPLIT ?= given
SMOL := scale=full models=[smol] split.kind=$(SPLIT) reproduce.recipes=[] repeat.seeds=5 \
	tune.trials=20 tune.startup_trials=8 tune.min_epochs=2 \
	++training.smol.epochs=3 ++training.smol.adapter_layers=last-10 ++training.smol.adapter_positions=text \
	++training.smol.image_head=linear ++training.smol.unimodal_labels=true

# How many models' stages run at once. A stage of a tiny model spends its time on imports, by one core; a full model needs
# the machine for itself.
MODELS_AT_ONCE ?= $(if $(shell grep -sx 'scale: tiny' params.yaml),$(JOBS),1)

.PHONY: help repro models smol test ui lint lock setup install
.DEFAULT_GOAL := help

help: ## Say what the targets do
	@sed -nE 's/^([a-z]+):[^#]*## (.*)/make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14

# An unpacked archive is no git repository, and DVC has to be told so: in .dvc/config.local, which git ignores.
repro: setup ## Run the pipeline: every stage whose inputs have changed
	@[ -e .git ] || [ ! -d .dvc ] || $(RUN) dvc config --local core.no_scm true
	@[ -n "$(ARGS)" ] || [ "$(MODELS_AT_ONCE)" = 1 ] || $(RUN) dvc status --quiet || $(MAKE) --no-print-directory models
	@$(RUN) dvc repro $(ARGS)

# DVC runs one stage at a time. Its manual advises to start it several times for stages that do not depend on each other,
# and these wait for its lock in turn. A line is the stages of one process. Through `cat` no bar is drawn across another.
# A stage that fails here is run again by `dvc repro`, which says why.
SIDE_BY_SIDE = $(ON_PATH) xargs -P "$(MODELS_AT_ONCE)" -L 1 "$(VENV)/bin/python" -m dvc --wait-for-lock repro --single-item 2>&1 | cat

models: setup
	@$(RUN) dvc repro split
	@$(RUN) dvc stage list --name-only | \
		awk -F @ 'NF == 2 { stages[$$2] = stages[$$2] " " $$0 } END { for (model in stages) print stages[model]; print "baseline" }' | \
		$(SIDE_BY_SIDE)
	@printf '%s\n' reproduce "ensemble register_ensemble noise compare" | $(SIDE_BY_SIDE)

# Quoted for the shell, which would take the brackets of a list for a pattern.
smol: setup ## Run the pipeline for smol, with pretrained weights
	@[ -z "$(DATA)" ] || $(RUN) src.ingest "$(patsubst ~/%,$(HOME)/%,$(DATA))"
	@$(RUN) dvc exp run $(patsubst %,-S '%',$(SMOL)) $(ARGS)

# A file is run by one process, with its fixtures: the main job is done once. Files begin in their own order, in which
# the longest come early and the quick ones of tests/ itself last, so that no process ends long before another.
test: setup ## Run the tests
	@$(RUN) pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: setup ## Check style, types, scripts and workflows
	@$(RUN) ruff check
	@$(RUN) ruff format --check
	@$(ON_PATH) shellcheck --severity warning .ci/run .ci/*.sh configs/*.sh
	@$(ON_PATH) zizmor --offline --quiet --pedantic --strict-collection .github
	@$(RUN) check_jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@$(RUN) check_jsonschema --builtin-schema vendor.github-actions .github/actions/*/action.yml
	@$(RUN) check_jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	@$(RUN) check_jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	@$(RUN) mypy

ui: export MLFLOW_TRACKING_URI ?= sqlite:///mlruns/mlflow.db
# No usage reports, and none of the eight processes that run jobs for a server of many.
ui: export MLFLOW_DISABLE_TELEMETRY := true
ui: export MLFLOW_SERVER_ENABLE_JOB_EXECUTION := false
ui: setup ## Open the MLflow UI on http://127.0.0.1:PORT
	@case "$$MLFLOW_TRACKING_URI" in \
	http://*|https://*) echo "Runs are tracked by a server: open its address in a browser";; \
	*) echo "MLflow UI: http://127.0.0.1:$(PORT) (Ctrl-C ends it)" && \
		MLFLOW_BACKEND_STORE_URI="$$MLFLOW_TRACKING_URI" \
		$(RUN) mlflow ui --host 127.0.0.1 --port $(PORT) --workers 1;; \
	esac

lock: ## Choose anew the newest versions that pyproject.toml allows, and write requirements.lock
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	$(PYTHON) -m venv "$$folder" && \
	"$$folder/bin/python" -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
		extras = project["optional-dependencies"]; \
		print(*project["dependencies"], *extras["dev"], *extras["cluster"], *extras["smol"], sep="\n")' > "$$folder/wanted.txt" && \
	"$$folder/bin/python" -m pip install --quiet --disable-pip-version-check -r "$$folder/wanted.txt" && \
	"$$folder/bin/python" -m pip freeze --all --exclude pip > "$$folder/found.txt" && \
	{ sed -n '/^#/p' requirements.lock; sed 's/+cpu$$//' "$$folder/found.txt"; } > "$$folder/new.lock" && \
	cp "$$folder/new.lock" requirements.lock

setup:
	@cmp -s requirements.lock $(INSTALLED) || \
		{ mkdir -p "$(VENV)" && $(TAKE_TURNS) $(MAKE) --no-print-directory install; }

install:
	@cmp -s requirements.lock $(INSTALLED) && exit; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, and $(PYTHON) is not: try make PYTHON=python3.12"; exit 1; }; \
	echo "Setting up $(VENV) from requirements.lock: once, some minutes" && \
	{ $(PIP) --version > /dev/null 2>&1 || $(PYTHON) -m venv "$(VENV)"; } && \
	$(PIP) install -r requirements.lock && \
	cp requirements.lock $(INSTALLED)-new && mv $(INSTALLED)-new $(INSTALLED)
