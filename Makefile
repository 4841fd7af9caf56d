# The front door. Every target does the set-up it needs; run again it needs no network.
.DEFAULT_GOAL := build
.NOTPARALLEL:
.PHONY: build cuda run test test-all mutants bench peers format check tidy install clean help

BUILD := build
PREFIX ?= /usr/local
export PROMPT ?= Why is the sky blue? Answer in two sentences.
PYTHON := .venv/bin/python
CPP_FILES = $(shell git ls-files --cached --others --exclude-standard \
  '*.h' '*.cc' '*.inl' '*.cu' '*.cuh')

define configure
@test -f $(BUILD)/build.ninja || cmake --preset cpu --log-level=WARNING
endef

build:            ## build build/slipstream
	@tools/setup.sh build
	$(configure)
	@ninja -C $(BUILD) --quiet slipstream

cuda:             ## build build-cuda/slipstream, which runs on Hopper GPUs as well (needs CUDA 13's nvcc)
	@tools/setup.sh build
	@command -v nvcc > /dev/null || { echo "make cuda: nvcc is not found; put CUDA 13's bin on PATH" >&2; exit 1; }
	@test -f build-cuda/build.ninja || cmake --preset cuda --log-level=WARNING
	@ninja -C build-cuda --quiet slipstream

run: build        ## answer PROMPT with the default model, fetched on first use
	@python3 share/slipstream/fetch.py --quick > /dev/null
	@$(BUILD)/slipstream run -p "$$PROMPT" -n 128 --temperature 0

test:             ## build and run all tests but the slow ones: a minute, no network
	@tools/setup.sh test
	$(configure)
	@ninja -C $(BUILD) --quiet
	@$(PYTHON) tools/run_tests.py --build $(BUILD) --pytest tests

test-all: test    ## the slow suites as well
	@$(PYTHON) tools/run_tests.py --build $(BUILD) --slow --timeout-s 3600 --pytest tests

mutants:          ## plant known bugs one by one; the tests must find them (ten minutes)
	@tools/setup.sh test
	@$(PYTHON) tools/run_mutants.py

bench: build      ## decode and prefill speed of the default model on this machine
	@python3 share/slipstream/fetch.py --quick > /dev/null
	@$(BUILD)/slipstream bench decode
	@$(BUILD)/slipstream bench prefill

peers: build      ## the same against llama.cpp, in turns
	@tools/peers/llama_cpp.sh

format:           ## lay out the C++ sources
	@tools/setup.sh ci
	@clang-format-19 -i $(CPP_FILES)

check:            ## the gates that need no build: format, layers and doors, lengths, words
	@tools/setup.sh ci
	@clang-format-19 --dry-run -Werror $(CPP_FILES)
	@python3 tools/check_layers.py
	@python3 tools/check_lengths.py
	@python3 tools/check_words.py

tidy: build       ## clang-tidy over the files that differ from HEAD (needs clang-tidy-19)
	@git diff --name-only --diff-filter=d HEAD -- '*.cc' | xargs -r clang-tidy-19 -p $(BUILD) --quiet

install: build    ## install below PREFIX (default /usr/local)
	@cmake --install $(BUILD) --prefix $(PREFIX)

clean:            ## remove what the builds made
	@rm -rf build build-cuda build-debug build-asan build-tsan

help:             ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' Makefile | expand -t 12
