# Spikeloom. `make demo` and `make test` need Python >= 3.11, a C++ compiler and make; everything else goes into .venv.
#
#   make demo       set up, then video -> bit-exact accelerator, results in build/demo
#   make test       what every change must pass          make test-all   everything, slow tests as well
#   make lint       ruff, pyright, Verilator             make bench      speed of simulator and schedule
#   make pynq-env   the environment with PYNQ for tests of the board; test and test-all make it
#   make accuracy   accuracy of float, int8 and int4 networks, ablations, energy by the paper's method: docs/accuracy.md
#   make clean      build products; make distclean: .venv as well

PYTHON ?= python3
JOBS ?= 2
PIP_TORCH ?=  # more options for installing torch, e.g. --index-url https://download.pytorch.org/whl/cpu

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check
STAMP := $(VENV)/.spikeloom-setup
PYNQ_PYTHON := $(BIN)/python tests/host/pynq_environment.py --where

# Names in the emitted Verilog must not depend on the order of a set.
export PYTHONHASHSEED := 0

.PHONY: help setup pynq-env demo test test-all lint bench bench-full bench-host accuracy typings clean distclean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' Makefile

setup: $(STAMP)

# torch alone and first: no other package's wish can then bring in a different build of it.
# spikingjelly without its dependencies: it asks for torchvision, which would replace torch by a CUDA build; its
# neurons, all that the tests use, need torch, numpy and loguru.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed, this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing about 1.7 GB into $(VENV): a minute or two"
	$(PIP) -c constraints.txt $(PIP_TORCH) torch
	$(PIP) -c constraints.txt -e '.[all]'
	$(PIP) --no-deps spikingjelly==2.0.0
	@touch $@

demo: $(STAMP)
	$(BIN)/spikeloom demo --out build/demo

# PYNQ wants an environment of its own. Without a package index the tests that need it are skipped and say so.
pynq-env: $(STAMP)
	@$(BIN)/python tests/host/pynq_environment.py $(VENV)/pynq

# One thread of torch per worker: the workers share the cores.
test: $(STAMP) pynq-env
	SPIKELOOM_PYNQ_PYTHON=$$($(PYNQ_PYTHON)) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n $(JOBS)

test-all: $(STAMP) pynq-env
	SPIKELOOM_PYNQ_PYTHON=$$($(PYNQ_PYTHON)) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/python -m spikeloom.sim.lint

bench: $(STAMP)
	$(BIN)/python -m spikeloom.sim.bench --out docs/performance.md

# make bench-host: what driver and pipeline cost per clip; CYCLES=n: of the machine for a clip of 15M.
bench-host: $(STAMP) pynq-env
	$(BIN)/python -m spikeloom.sim.host_overhead --out docs/performance-host.md \
		$(if $(CYCLES),--cycles $(CYCLES)) --pynq "$$($(PYNQ_PYTHON))"

# make bench-full VIDEO=file [NETWORK=55M] [FRAMES=32]: at 224 x 224 on the flagship preset, every layer compared.
NETWORK ?= 15M
bench-full: $(STAMP)
	$(BIN)/python -m spikeloom.sim.bench --network $(NETWORK) --presets zcu104 --video $(VIDEO) \
		$(if $(FRAMES),--frames $(FRAMES)) --out docs/performance-$(NETWORK)$(if $(FRAMES),-$(FRAMES)).md

# make accuracy: every row of docs/accuracy.md that is missing (the page says how long it took); ROWS='digits-*': only those.
accuracy: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m spikeloom.quantize.accuracy --out docs/accuracy.md $(if $(ROWS),--rows '$(ROWS)')

# pyright sees the folders laid out as installed through these links; a test compares them with the disk.
typings:
	rm -rf typings/spikeloom && mkdir -p typings/spikeloom
	cd typings/spikeloom && ln -s ../../host ../../hw ../../quantize ../../sim ../../spikeloom/commands ../../spikeloom/*.py ../../spikeloom/py.typed .

clean:
	rm -rf build dist spikeloom.egg-info .pytest_cache .ruff_cache

distclean: clean
	rm -rf $(VENV)
