# make demo: a policy learns to use an operation.   make test: every test that needs no GPU, lint and types included.
# The environment is brought up to date when what it is made from changes. ACCELERATOR=gpu takes the GPU builds of FAISS
# and ONNX Runtime, in an environment of its own because each ships the same modules as its CPU twin.
ACCELERATOR ?= cpu
VENV ?= .venv$(if $(filter gpu,$(ACCELERATOR)),-gpu)
PYTHON ?= python3

export HF_HUB_OFFLINE = 1

.PHONY: demo test
demo: $(VENV)/installed
	$(VENV)/bin/python -m train.cli --backend grpo

test: $(VENV)/installed
	$(VENV)/bin/python -m pytest

$(VENV)/installed: pyproject.toml constraints.txt
	@echo "setting up $(VENV): some minutes, and about 2 GB"
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt setuptools
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[$(ACCELERATOR),dev]'
	touch $@
