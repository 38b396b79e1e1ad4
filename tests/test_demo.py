"""The demo on its real data, without its timings, and the output of ``python -m fastsqrtm``."""

import subprocess
import sys

import pytest
import torch

import fastsqrtm


def run_module(*arguments, hide=()):
    """`python -m fastsqrtm` with some packages made missing."""
    code = "import runpy, sys\n"
    code += "".join(f"sys.modules[{name!r}] = None\n" for name in hide)
    code += f"sys.argv = ['fastsqrtm', *{arguments!r}]\nrunpy.run_module('fastsqrtm', run_name='__main__')"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_info_names_torch_and_the_path():
    done = run_module("info")
    assert done.returncode == 0, done.stderr
    assert torch.__version__ in done.stdout
    assert f"path {fastsqrtm.plan(torch.eye(64)).path}" in done.stdout


@pytest.mark.parametrize("missing", ["sklearn", "matplotlib", "tqdm"])
def test_demo_without_its_packages_says_what_to_install(missing):
    done = run_module("demo", hide=[missing])
    assert done.returncode != 0
    assert done.stderr.strip().endswith(f"The demo needs {missing}: pip install fastsqrtm[demo]")


def test_demo_whitens_and_draws(monkeypatch, tmp_path, capsys):
    for package in ("sklearn", "matplotlib", "tqdm"):
        pytest.importorskip(package)
    from fastsqrtm import demo

    seconds = {m.name: {"root": 1.0, "root + gradient": 2.0} for m in demo.METHODS}
    monkeypatch.setattr(demo, "measure_times", lambda A: seconds)
    demo.run(tmp_path / "demo.png")
    assert all((tmp_path / f"demo{end}.png").stat().st_size > 100_000 for end in ("", "_style"))
    text = capsys.readouterr().out
    assert "fastsqrtm.sqrtm" in text
    assert "eigendecomposition" in text
    rows = [line.split()[-3:] for line in text.splitlines() if ", look of a " in line]
    assert len(rows) == 2
    for as_it_is, colors, patches in (map(float, row) for row in rows):
        assert 0 < 2 * patches < colors < as_it_is / 10

    photographs = demo.load()
    A = photographs.covariances
    assert A.shape == (64, 48, 48)
    Z = fastsqrtm.inv_sqrtm(A.float()).double()
    off_diagonal, diagonal, _, unit = demo.departure(Z @ A @ Z)
    assert (off_diagonal < 1e-5, diagonal < 1e-5, unit) == (True, True, 1.0)
    assert demo.whiten_image(photographs, Z).shape == photographs.images[0].shape
