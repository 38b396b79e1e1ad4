"""The examples of the docstrings."""

import doctest
import importlib
import inspect

import pytest
import torch

import fastsqrtm

# By name: some modules have the name of their function, so the attribute of `fastsqrtm` is the function.
MODULES = [importlib.import_module(f"fastsqrtm.{name}") for name in ("lyapunov", "paper", "plan", "roots", "testing")]
EXAMPLES = [test for module in MODULES for test in doctest.DocTestFinder().find(module) if test.examples]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda test: test.name)
def test_example(example):
    example.globs.update(fastsqrtm=fastsqrtm, torch=torch)
    assert doctest.DocTestRunner().run(example).failed == 0


def test_every_public_function_has_one():
    public = [getattr(module, name) for module in (fastsqrtm, fastsqrtm.paper) for name in module.__all__]
    functions = {f"{f.__module__}.{f.__name__}" for f in public if inspect.isfunction(f)}
    assert len(functions) == 12
    assert functions <= {test.name for test in EXAMPLES}
