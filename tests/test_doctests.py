"""The examples of the docstrings."""

import doctest
import importlib
import inspect

import pytest
import torch

import fastsqrtm

MODULES_OF_THE_API = (fastsqrtm, fastsqrtm.linalg, fastsqrtm.nn, fastsqrtm.paper, fastsqrtm.statistics)
PUBLIC = [getattr(module, name) for module in MODULES_OF_THE_API for name in module.__all__]
MODULES_OF_TORCH = [x for x in PUBLIC if inspect.isclass(x) and issubclass(x, torch.nn.Module)]
FUNCTIONS = [x for x in PUBLIC if inspect.isfunction(x)] + MODULES_OF_TORCH
# By name: some modules have the name of their function, so the attribute of `fastsqrtm` is the function.
MODULES = [importlib.import_module(name) for name in sorted({f.__module__ for f in FUNCTIONS} | {"fastsqrtm.testing"})]
EXAMPLES = [test for module in MODULES for test in doctest.DocTestFinder().find(module) if test.examples]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda test: test.name)
def test_example(example):
    example.globs.update(fastsqrtm=fastsqrtm, torch=torch)
    assert doctest.DocTestRunner().run(example).failed == 0


def test_every_public_function_has_one():
    functions = {f"{f.__module__}.{f.__name__}" for f in FUNCTIONS}
    assert {"fastsqrtm.roots.sqrtm", "fastsqrtm.paper.sqrtm"} < functions
    assert functions <= {test.name for test in EXAMPLES}
