"""The studies of the layers: they run, go on after an interruption, and report what they found."""

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # at the end: an installed fastsqrtm stays in front of the sources

pytest.importorskip("tqdm")
pytest.importorskip("matplotlib")
from bench import applications, layers  # noqa: E402
from bench.applications import data, models, report, training  # noqa: E402
from bench.applications.studies import STUDIES  # noqa: E402

SIZE = {"train": 120, "test": 40, "epochs": 2, "batch": 40, "seeds": 2}


@pytest.fixture
def fashion(tmp_path, monkeypatch):
    """Files in the format of Fashion-MNIST, whose classes are the brightness of a quarter of the image."""
    generator = np.random.default_rng(0)
    for name, count in (("train", 160), ("t10k", 60)):
        labels = generator.integers(0, 10, count).astype(np.uint8)
        images = generator.integers(0, 40, (count, 28, 28)).astype(np.uint8)
        images[:, :14, :14] += 20 * labels[:, None, None]
        for kind, offset, values in (("images-idx3", 16, images), ("labels-idx1", 8, labels)):
            with gzip.open(tmp_path / f"{name}-{kind}-ubyte.gz", "wb") as file:
                file.write(bytes(offset) + values.tobytes())
    monkeypatch.setitem(applications.SIZES, "quick", SIZE)
    return tmp_path


def test_an_interrupted_record_goes_on(fashion, monkeypatch):
    record = fashion / "record.jsonl"
    arguments = ["--size", "quick", "--studies", "pooling,default", "--data", str(fashion), "--threads", "1"]
    arguments += ["--record", str(record), "--output", str(fashion / "docs")]
    chosen = {name: STUDIES["default"].networks[name] for name in ("batch norm", "shrinkage 0")}
    monkeypatch.setitem(STUDIES, "default", STUDIES["default"]._replace(networks=chosen))
    applications.main(arguments)
    whole = record.read_text().splitlines()
    runs = [json.loads(line) for line in whole[1:]]
    assert len(runs) == 2 * (4 + 2)
    assert all(0 <= run["running"] <= 1 and len(run["losses"]) == 6 for run in runs)
    assert all((run["halfway"] is not None) == (run["study"] == "default") for run in runs)
    record.write_text("\n".join(whole[:-2]) + "\n")
    applications.main(arguments)
    again = [json.loads(line) for line in record.read_text().splitlines()[1:]]
    assert len(again) == len(runs)
    for run, other in zip(runs, again, strict=True):  # the seed decides everything but the time
        assert {**run, "seconds": 0} == {**other, "seconds": 0}
    page = (fashion / "docs" / "applications.md").read_text()
    for name in ("average, wide head", "root of the covariance", "shrinkage 0", "record.jsonl"):
        assert name in page
    assert (fashion / "docs" / report.IMAGES / "default.png").stat().st_size > 10_000
    monkeypatch.setitem(applications.SIZES, "quick", {**SIZE, "epochs": 3})
    with pytest.raises(SystemExit, match="another size"):
        applications.main(arguments)


def test_missing_data_name_the_command(tmp_path):
    with pytest.raises(SystemExit, match="apt-get install dataset-fashion-mnist"):
        data.fashion(tmp_path / "nothing")


def test_every_network_of_every_study_has_a_forward():
    for study in STUDIES.values():
        channels, size = (1, 28) if study.data == "fashion" else (3, 32)
        images = torch.randn(4, channels, size, size)
        labels = torch.arange(4)
        part = data.Data(images, labels, images, labels, 7)
        for make in study.networks.values():
            assert make(part)(images).shape == (4, 7)


def test_the_wide_head_has_at_least_the_parameters_of_the_covariance():
    heads = {"wide": models.wide_head(32, 10), "covariance": models.covariance_head(32, 10, "sqrt")}
    counts = {name: sum(p.numel() for p in head.parameters()) for name, head in heads.items()}
    assert counts["wide"] >= counts["covariance"]


def test_a_diverged_run_is_reported():
    images = torch.full((80, 1, 28, 28), float("nan"))
    part = data.Data(images, torch.zeros(80, dtype=torch.long), images, torch.zeros(80, dtype=torch.long), 2)
    settings = {"epochs": 1, "rate": 0.1, "batch": 40, "adam": False, "halfway": True}
    run = training.run(models.small_cnn(1, 2), part, settings, 0)
    assert run["diverged"] and run["running"] is None
    assert report.mean_and_deviation([0.5, None]) == "diverged (1 of 2)"


def test_the_bench_of_layers_measures_time_and_whiteness(tmp_path, capsys):
    layers.main(["--quick", "--seconds", "0.01", "--threads", "1", "--output", str(tmp_path / "layers.json")])
    (row,) = json.loads((tmp_path / "layers.json").read_text())["layers"]
    assert row["smallest"]["BatchWhitening2d"] > 0.999 > 0.2 > row["smallest"]["IterNorm, T = 5"]
    assert abs(row["smallest"]["eigendecomposition"] - 1) < 0.01
    assert "| 8, 16, 8, 8 |" in capsys.readouterr().out


def test_peers_have_our_gradient_where_they_have_converged():
    """At condition numbers near 1 every layer whitens, and forward and backward agree."""
    x = torch.randn(64, 6, 6, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    contenders = layers.contenders(6)
    del contenders["BatchNorm2d"]
    expected = contenders.pop("BatchWhitening2d")(x)
    (gradient,) = torch.autograd.grad(expected.pow(3).sum(), x)
    for name, layer in contenders.items():
        y = layer(x)
        torch.testing.assert_close(y, expected, atol=0.02, rtol=0.02, msg=name)
        (other,) = torch.autograd.grad(y.pow(3).sum(), x)
        assert (other - gradient).norm() < 0.05 * gradient.norm(), name


def test_the_table_of_the_guide_is_that_of_the_record():
    record = json.loads(next((ROOT / "bench" / "results").glob("*-layers.json")).read_text())
    assert layers.guide_table(record) in (ROOT / "docs" / "guide" / "layers.md").read_text()


def test_the_page_of_the_studies_is_that_of_the_record(tmp_path):
    source = next((ROOT / "bench" / "results").glob("*-applications-small.jsonl"))
    page = report.write(applications.read(source), tmp_path, f"../bench/results/{source.name}")
    assert page.read_text() == (ROOT / "docs" / "applications.md").read_text()
