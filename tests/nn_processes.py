"""A program of several gloo processes, for test_nn_processes.py: whitening of all batches as of one.

It imports torch once and forks, which takes a second where new interpreters take ten.
"""

import os
import sys
import tempfile
import traceback

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import fastsqrtm
from fastsqrtm import nn, statistics

torch.set_num_threads(1)


def network(sync):
    torch.manual_seed(0)
    layers = [
        torch.nn.Conv2d(3, 6, 3),
        nn.BatchWhitening2d(6, group_size=4, momentum=None),
        torch.nn.ReLU(),
        torch.nn.Conv2d(6, 5, 1),
        nn.BatchWhitening2d(5, bias=False),
    ]
    net = torch.nn.Sequential(*layers).double()
    return nn.convert_sync_whitening(net) if sync else net


def data():
    generator = torch.Generator().manual_seed(1)
    x, cotangent = torch.randn(2, 16, 5 * 6 * 6, generator=generator, dtype=torch.float64)
    return x.view(16, 5, 6, 6)[:, :3] + 30, cotangent.view(16, 5, 6, 6)[..., :4, :4]


def trained(net, x, cotangent, through=lambda net, x: net(x)):
    """Output, gradient of the input and of the parameters, buffers, after two forwards and one backward."""
    x = x.clone().requires_grad_()
    net(x)
    y = through(net, x)
    (y.pow(2) * cotangent).sum().backward()
    return y.detach(), x.grad, [p.grad for p in net.parameters()], list(net.buffers())


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-9)


def check_network(rank, sizes):
    x, cotangent = data()
    expected = trained(network(False), x, cotangent)
    mine = [t.split(sizes)[rank] for t in (x, cotangent)]
    ways = {
        "plain": lambda net, x: net(x),
        "checkpoint": lambda net, x: checkpoint(net, x, use_reentrant=False),
    }
    for through in ways.values():
        y, dx, gradients, buffers = trained(network(True), *mine, through)
        close(y, expected[0].split(sizes)[rank])
        close(dx, expected[1].split(sizes)[rank])
        for gradient in gradients:
            dist.all_reduce(gradient)
        close(gradients, expected[2])
        close(buffers, expected[3])
    # DDP averages the gradients of the processes.
    wrapped = DistributedDataParallel(network(True))
    y, dx, gradients, buffers = trained(wrapped, *mine)
    close(y, expected[0].split(sizes)[rank])
    close([g * len(sizes) for g in gradients], expected[2])
    close(buffers, expected[3])


def check_fsdp(rank, sizes):
    x, cotangent = data()
    expected = trained(network(False), x, cotangent)
    net = network(True)
    for layer in (net[0], net[1], net[4]):
        fully_shard(layer)
    fully_shard(net)
    y, dx, gradients, buffers = trained(net, *[t.split(sizes)[rank] for t in (x, cotangent)])
    close(y, expected[0].split(sizes)[rank])
    close(dx, expected[1].split(sizes)[rank])
    close([g.full_tensor() * len(sizes) for g in gradients], expected[2])
    close(buffers, expected[3])


def check_evaluation_is_local(rank, sizes):
    net = network(True).eval()
    if rank == 0:  # no other process takes part
        net(data()[0])


def check_nothing_anywhere(rank, sizes):
    net = network(True)
    before = [b.clone() for b in net.buffers() if b.is_floating_point()]
    y = net(data()[0][:0])
    y.sum().backward()
    close([b for b in net.buffers() if b.is_floating_point()], before)
    assert y.shape == (0, 5, 4, 4)


def check_covariance(rank, sizes):
    x, _ = data()
    found = statistics.covariance(x.split(sizes)[rank], group_size=2, correction=1, process_group=dist.group.WORLD)
    close(found, statistics.covariance(x, group_size=2, correction=1))


def check_large_means(rank, sizes):
    """In float32, at the first step, when no running mean is near the mean."""
    x = (data()[0] + 2e3).float()
    layer = nn.BatchWhitening2d(3, sync=True, eps=0.0, shrinkage=0.0)
    expected = nn.BatchWhitening2d(3, eps=0.0, shrinkage=0.0)(x)
    torch.testing.assert_close(layer(x.split(sizes)[rank]), expected.split(sizes)[rank], rtol=1e-3, atol=1e-3)


def check_subgroup(rank, sizes):
    """Statistics of the processes of a group alone."""
    group = dist.new_group([0, 1])
    if rank > 1:
        return
    x, _ = data()
    parts = x.split(sizes)
    layer = nn.BatchWhitening2d(3, sync=True, process_group=group, dtype=torch.float64)
    alone = nn.BatchWhitening2d(3, dtype=torch.float64)
    expected = alone(torch.cat(parts[:2]))
    close(layer(parts[rank]), expected[: sizes[0]] if rank == 0 else expected[sizes[0] :])


def check_calibration(rank, sizes):
    x, _ = data()
    net = nn.calibrate(network(True)[:2], [x.split(sizes)[rank]], progress=False)
    one = nn.calibrate(network(False)[:2], [x], progress=False)
    close(list(net.buffers()), list(one.buffers()))


def check_loss(rank, sizes):
    """Equal batches of embeddings, gathered."""
    views = torch.randn(2, 8 * len(sizes), 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    mine = views.split(8, 1)[rank].clone().requires_grad_()
    whole = views.clone().requires_grad_()
    torch.manual_seed(0)
    loss = nn.WMSELoss(3, gather=True)(*mine)
    expected = nn.WMSELoss(3)(*whole)
    close(loss, expected)
    loss.backward()
    expected.backward()
    close(mine.grad / len(sizes), whole.grad.split(8, 1)[rank])


def check_dtensor(rank, sizes):
    """A DTensor sharded over its batch: roots where the shards are, forward and backward, without communication."""
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh
    from torch.distributed.tensor.debug import CommDebugMode

    functions = (
        fastsqrtm.sqrtm,
        fastsqrtm.inv_sqrtm,
        lambda A: fastsqrtm.sqrtm(A, eps=0.5, rel_eps=0.1),
        lambda A: sum(fastsqrtm.sqrtm_and_inv(A)),
        fastsqrtm.inv,
        lambda A: fastsqrtm.inv_and_logdet(A)[1],  # the other result has no cotangent
        lambda A: fastsqrtm.lyapunov(A, A),
        lambda A: torch.ops.fastsqrtm.rational_power(A, 0.3, 0.01, 8),
        lambda A: torch.ops.fastsqrtm.rational_log(A, 0.01, 8),
        fastsqrtm.mpa_lya,
        lambda A: fastsqrtm.paper.inv_sqrtm(A, method="ns"),
    )
    mesh = init_device_mesh("cpu", (len(sizes),))
    A = fastsqrtm.testing.spd(4, batch=(5,), dtype=torch.float64)  # no number of processes divides 5
    for f in functions:
        plain = A.clone().requires_grad_()
        expected = f(plain)
        expected.backward(expected.detach() ** 2)
        for placement in (Shard(0), Replicate()):
            sharded = distribute_tensor(A, mesh, [placement]).requires_grad_()
            with CommDebugMode() as communication:
                root = f(sharded)
                root.backward(root.detach() ** 2)
            assert communication.get_total_counts() == 0
            assert root.placements == sharded.grad.placements == (placement,)
            close(root.full_tensor(), expected)
            close(sharded.grad.full_tensor(), plain.grad)
    rows = fastsqrtm.sqrtm(distribute_tensor(A, mesh, [Shard(1)]))  # a matrix in pieces is gathered
    close(rows.full_tensor(), fastsqrtm.sqrtm(A))


CHECKS = {name.removeprefix("check_"): f for name, f in list(globals().items()) if name.startswith("check_")}


def work(rank, sizes, store):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=len(sizes))
    for name, check in CHECKS.items():
        try:
            check(rank, sizes)
        except Exception:
            traceback.print_exc()
            print(f"{name}: failed in process {rank} of {sizes}", flush=True)
            os._exit(1)
        dist.barrier()
    dist.destroy_process_group()


def main(arguments):
    """Each argument has the number of samples of each process, 16 in all: 5,11."""
    for sizes in ([int(size) for size in argument.split(",")] for argument in arguments):
        with tempfile.TemporaryDirectory() as folder:
            children = []
            for rank in range(len(sizes)):
                child = os.fork()
                if child == 0:
                    work(rank, sizes, os.path.join(folder, "store"))
                    os._exit(0)
                children.append(child)
            if any(os.waitpid(child, 0)[1] for child in children):
                sys.exit(1)
    print("ok")


if __name__ == "__main__":
    main(sys.argv[1:])
