"""The pure-torch path is never taken silently, and runs where there is no native kernel."""

import os
import subprocess
import sys
import warnings

import pytest
import torch

import fastsqrtm
from fastsqrtm._ops import register
from fastsqrtm._ops.native import native

COUNT_WARNINGS = """
import warnings, torch
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import fastsqrtm
    for _ in range(3):
        A = torch.eye(2, requires_grad=True)
        fastsqrtm.mpa_lya(A).sum().backward()
print(sum("using the slower pure-torch path" in str(w.message) for w in caught))
"""


def run(**environment):
    environment = {**os.environ, "FASTSQRTM_NATIVE": "0", "FASTSQRTM_REQUIRE_NATIVE": "0", **environment}
    return subprocess.run([sys.executable, "-c", COUNT_WARNINGS], env=environment, capture_output=True, text=True)


def test_one_warning_an_error_or_silence():
    assert run(FASTSQRTM_FALLBACK="warn").stdout.strip() == "1"
    assert run(FASTSQRTM_FALLBACK="silent").stdout.strip() == "0"
    failed = run(FASTSQRTM_FALLBACK="error")
    assert failed.returncode != 0
    assert "RuntimeError: fastsqrtm: no native kernels for cpu tensors" in failed.stderr


def test_report(monkeypatch):
    monkeypatch.setattr(register, "_reported", set())
    monkeypatch.setattr(register, "load_cuda", lambda: "for some reason")
    monkeypatch.setenv("FASTSQRTM_FALLBACK", "warn")
    with pytest.warns(UserWarning, match="no native kernels for cuda tensors"):
        register._report_fallback("cuda")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register._report_fallback("cuda")
    monkeypatch.setenv("FASTSQRTM_FALLBACK", "error")
    with pytest.raises(RuntimeError, match="no native kernels for cuda tensors"):
        register._report_fallback("cuda")


@pytest.mark.usefixtures("native_only")
def test_native_kernels_go_first(monkeypatch):
    monkeypatch.setenv("FASTSQRTM_FALLBACK", "error")
    A = torch.eye(3, requires_grad=True)
    for name in ("mpa_lya", "mtp_lya", "mpa_lya_inv", "mtp_lya_inv"):
        getattr(fastsqrtm, name)(A).sum().backward()
    fastsqrtm.lyapunov(A, A).sum().backward()


def test_plan_tells_the_path():
    assert (fastsqrtm.plan(torch.eye(3)).path == "reference") is not native.loaded
    assert fastsqrtm.plan(torch.eye(3, device="meta")).path == "reference"


@pytest.mark.usefixtures("native_only", "two_threads")
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3, 3), (7, 64, 64), (2, 3, 300, 300), (1, 1000, 1000), (0, 5, 5), (2, 0, 0)])
def test_plan_of_native_kernels(shape, dtype):
    plan = fastsqrtm.plan(torch.empty(shape, dtype=dtype), rtol=1e-3).cpu  # which no matrix leaves to LAPACK
    assert plan.alone + plan.shared == torch.Size(shape[:-2]).numel()
    assert plan.threads == 2
    matrix = shape[-1] ** 2 * (8 if dtype == torch.float64 else 4)
    if shape[-1] >= 64:  # five matrices per thread, and the padding at this size
        assert 5 * matrix <= plan.workspace_bytes <= 2 * 5.8 * matrix
