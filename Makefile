# Every target makes what it needs in $(VENV) on first use, and again only when its inputs changed.
TORCH ?= torch==2.13.0
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
# Processes of pytest: one a core. A file stays in one of them, because each process makes its own shared fixtures.
JOBS ?= auto

bin := $(VENV)/bin
# The package is installed editable, so there is one copy of it: `python -m fastsqrtm` or `bench` started here would
# otherwise find ./fastsqrtm, without its native libraries, before the installed one. A Python file needs no new install.
native_inputs := $(shell find csrc cmake build_tools -type f ! -name '*.pyc') CMakeLists.txt setup.py pyproject.toml
cpp_files = $(shell find csrc tests examples -name '*.h' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu')
# Those that pip's build of the package takes, or another ninja would build everything again.
cmake := $(or $(shell command -v cmake),$(bin)/cmake)
ninja := $(or $(shell command -v ninja),$(abspath $(bin))/ninja)
configure = $(cmake) -S . -G Ninja -DCMAKE_MAKE_PROGRAM=$(ninja) -DPython_EXECUTABLE=$(abspath $(bin))/python
# The tests that take every kernel through its shapes, strides and dtypes; the others, and the twins in Python, would
# only be slow.
sanitized := $(patsubst %,tests/test_%.py,forward backward lyapunov dtypes inputs invariance random sqrtm users_cases)

.PHONY: demo test test-all bench quality docs wheel sanitize cuda-check gpu-check clean FORCE

demo: $(VENV)/demo.stamp  ## the main job on real data: two tables and two figures
	$(bin)/python -m fastsqrtm demo $(ARGS)

# ARGS follow the arguments of pytest given here: ARGS='tests/test_sqrtm.py -n 0' is one file in one process. Files start
# in their order: by default those with the most tests come first, and the longest ones, which compile, come last.
pytest = FASTSQRTM_REQUIRE_NATIVE=1 $(bin)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

test: $(VENV)/test.stamp  ## the tests but those marked slow; a native library that does not load is an error
	$(pytest) -m "not slow" $(ARGS)

test-all: $(VENV)/test.stamp  ## every test: also each variant of the emulated kernels and each instruction set
	$(pytest) $(ARGS)

bench: $(VENV)/bench.stamp
	$(bin)/python -m bench $(ARGS)

# CI passes the build of the package, made with warnings as errors, so that nothing is left to compile.
QUALITY_BUILD ?= build/quality
quality: $(VENV)/dev.stamp  ## formats, lint, types, compiler warnings as errors
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/clang-format --dry-run -Werror $(cpp_files)
	$(bin)/mypy fastsqrtm
	$(configure) -B $(QUALITY_BUILD) -DFASTSQRTM_WERROR=ON
	$(cmake) --build $(QUALITY_BUILD)
	@echo "The linker keeps one copy of a symbol: one compiled for two instruction sets could run on the wrong machine."
	@echo "DW.ref.* is no code, but the address of a function of the C++ runtime."
	! nm $(QUALITY_BUILD)/CMakeFiles/fastsqrtm_kernels_*.dir/csrc/cpu/kernels.cpp.o \
	  | awk '$$2 ~ /[WVu]/ && $$3 !~ /^DW\.ref\./ { print $$3 }' | sort | uniq -d | grep .

docs: $(VENV)/docs.stamp  ## the site, in build/site; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(bin)/mkdocs build --strict --quiet
	@echo "The site is in build/site."

# `build` makes the wheel from the unpacked sdist, so the trial of the wheel shows that the sdist has all it needs.
wheel_trial := build/wheel
wheel: $(VENV)/dev.stamp  ## sdist in dist/, and the wheel made of it: checked, installed and tried in a fresh environment
	rm -rf dist $(wheel_trial)
	$(bin)/python -m build --no-isolation
	$(bin)/twine check --strict dist/*
	$(bin)/python -m venv $(wheel_trial)
	$(wheel_trial)/bin/python -m pip install --quiet '$(TORCH)'
	$(wheel_trial)/bin/python -m pip install dist/*.whl
	FASTSQRTM_REQUIRE_NATIVE=1 $(wheel_trial)/bin/python build_tools/try_install.py

sanitize: $(VENV)/test.stamp $(VENV)/dev.stamp  ## the tests under AddressSanitizer and UndefinedBehaviorSanitizer
	$(configure) -B build/sanitize -DFASTSQRTM_SANITIZE=address,undefined
	$(cmake) --build build/sanitize
	rm -rf build/sanitize/site && mkdir build/sanitize/site && cp -r fastsqrtm build/sanitize/site
	$(cmake) --install build/sanitize --component python --prefix build/sanitize/site/fastsqrtm
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 PYTHONPATH=build/sanitize/site \
	  FASTSQRTM_REQUIRE_NATIVE=1 $(bin)/pytest -m "not slow" -k "not as_accurate_as and not reference" $(sanitized) $(ARGS)

# A CUDA torch that matches the nvcc at hand, in an environment of its own.
CUDA_TORCH ?= torch==2.14.1
cuda_checked := $(patsubst %,tests/test_%.py,packaging fallback without_gpu inputs func compile cpp) \
  -k "not opcheck and not tangents_from_outside and not (compile and True) and not (inputs and reference)"
# The sources must compile against the oldest torch.
OLDEST_TORCH ?= torch==2.11.0
oldest := build/oldest
cuda_make = FASTSQRTM_CUDA=ON FASTSQRTM_CUDA_ARCHS=9.0 CMAKE_ARGS='-DFASTSQRTM_WERROR=ON -DFASTSQRTM_X86_ISAS=OFF' \
            $(MAKE) TORCH=$(CUDA_TORCH) VENV=$(VENV)-cuda
cuda-check:  ## without a GPU: the CUDA half compiled, warnings as errors, imported, no spills; and the CPU tests
	$(cuda_make) $(VENV)-cuda/test.stamp
	rm -rf $(oldest) && $(VENV)-cuda/bin/python -m pip download --quiet --no-deps --dest $(oldest) '$(OLDEST_TORCH)'
	$(VENV)-cuda/bin/python build_tools/compile_against.py $(oldest)/*.whl
	$(cuda_make) test ARGS='$(cuda_checked)'
	$(VENV)-cuda/bin/python build_tools/fat_binary.py

# With the environment of PYTHON as it is, its CUDA torch and build tools: a machine with a GPU may have no network.
gpu-check:  ## build for this machine's GPU, test, sanitize, measure; writes bench/results/<gpu>.json
	$(PYTHON) -m bench.gpu_check $(ARGS)

clean:
	rm -rf build dist fastsqrtm.egg-info fastsqrtm/include fastsqrtm/lib fastsqrtm/share fastsqrtm/*.so $(VENV) $(VENV)-cuda

# The torch of the environment. Remembers the requirement it was asked for: another one, another install.
$(VENV)/torch: FORCE
	@test -x $(bin)/python || $(PYTHON) -m venv $(VENV)
	@echo '$(TORCH)' | cmp -s - $@ || { $(bin)/python -m pip install '$(TORCH)' && echo '$(TORCH)' > $@; }

$(VENV)/package.stamp: $(VENV)/torch $(native_inputs)
	$(bin)/python -m pip install --editable .
	@touch $@

# demo.stamp: what the extra `demo` asks for is installed; bench, dev, docs and test likewise. The package is there, and
# is not built again.
$(VENV)/%.stamp: $(VENV)/package.stamp
	$(bin)/python -m pip install --quiet 'fastsqrtm[$*]'
	@touch $@
