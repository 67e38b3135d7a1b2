# Tutti: the commands that stay. Meson builds; this file says what to run.
#
#   make            build the library and the command line (build/tutti)
#   make demo       real vLLM with its KV cache on disk, killed and restarted
#   make test       every test; closing line "N passed, N failed"
#   make lint       formatting, static checks, no warnings under gcc and clang
#   make vm-test    NVMe in user space, in a virtual machine; ARGS="--only NAME --console"
#   make torture    the same with long counts; ARGS="--minutes N" kills a serving vLLM for so long
#   make coverage   branches of the library that the C tests take; fails below its bar
#   make bench      measurements -> build/bench/
#   make install    the command line, its man pages, the library and its headers
.PHONY: all python demo test lint vm-test torture coverage bench install clean

SHELL = /bin/bash -o pipefail

PYTHON_ENV = $(shell setup/python-env)

all: build/build.ninja
	@ninja -C build

build/build.ninja:
	@setup/install
	@meson setup build --buildtype=debugoptimized >/dev/null

# The Python package with its compiled binding, importable from build/site.
python:
	@setup/install
	@setup/python-package

demo: all python
	@"$(PYTHON_ENV)/bin/python" demo/demo.py $(ARGS)

test:
	@setup/install
	@setup/python-env >/dev/null
	@python3 tests/run.py $(ARGS)

lint:
	@setup/install
	@setup/python-env >/dev/null
	@python3 tests/run.py --only lint

vm-test: build/build.ninja
	@setup/install
	@ninja -C build tests/vm/guest
	@python3 tests/vm/run.py build/tests/vm/guest $(ARGS)

torture:
	@setup/install
	@python3 tests/run.py --torture $(ARGS)

coverage:
	@setup/install
	@python3 tests/coverage.py $(ARGS)

bench: all
	@mkdir -p build/bench
	@build/tutti bench --model llama3-8b --tokens 8192 --json | tee build/bench/llama3-8b.json

install: all
	@meson install -C build

clean:
	rm -rf build build-*
