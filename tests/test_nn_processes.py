"""Layers that take the statistics of several processes equal one process with all samples."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastsqrtm import nn

PROGRAM = Path(__file__).with_name("nn_processes.py")


@pytest.mark.parametrize("sizes", ["5,11", pytest.param("5,0,11", marks=pytest.mark.slow)])
def test_several_processes_equal_one(sizes):
    """With unequal and empty batches: outputs, buffers and gradients, plain, checkpointed and under DDP."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, PROGRAM, sizes], env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0 and done.stdout.endswith("ok\n"), done.stdout + done.stderr


def test_sync_needs_processes_in_training_alone():
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), nn.BatchWhitening1d(4), nn.DomainWhitening(4, 2))
    assert nn.convert_sync_whitening(net) is net
    assert all(m.sync for m in net.modules() if hasattr(m, "sync"))
    assert "sync=True" in repr(net)
    with pytest.raises(ValueError, match="init_process_group"):
        net(torch.randn(8, 3))
    assert net.eval()(torch.randn(8, 3)).shape == (8, 4)
    with pytest.raises(RuntimeError, match="batch whitening"):
        nn.convert_sync_whitening(torch.nn.Linear(3, 4))
    # torch's conversion leaves the layer alone.
    assert type(torch.nn.SyncBatchNorm.convert_sync_batchnorm(net)[1]) is nn.BatchWhitening1d
