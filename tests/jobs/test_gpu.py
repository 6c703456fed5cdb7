"""What only a GPU can show: precisions with their loss scaling, devices of steps, and ranks that meet over NCCL."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from jobs.distributed import process_group
from jobs.machine import choose_device
from jobs.resources import Resources
from pipeline.core.context import Context, StopRequested
from pipeline.core.ranks import Ranks
from pipeline.core.store import Store
from pipeline.methods.attribution import ATTRIBUTIONS, Score, attribute
from pipeline.methods.training.data import SampleSet
from pipeline.methods.training.ddp import import_ddp
from pipeline.methods.training.loop import train
from pipeline.methods.training.settings import Training
from tests.jobs.support import attrain, submit, tables, write_experiment
from tests.methods.attribution.support import background_of

pytestmark = pytest.mark.gpu

PIXELS = np.random.default_rng(0).integers(0, 256, size=(96, 1, 8, 8), dtype=np.uint8)
DATA = SampleSet.of(PIXELS, labels=(PIXELS[:, 0, :, :4].mean((1, 2)) > PIXELS[:, 0, :, 4:].mean((1, 2))).astype(int), mean=0.5, std=0.25)
TRAINING = Training(epochs=4, batch_size=32, learning_rate=0.02)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 2))


def trained(device: str, context: Context | None = None, **changes: object) -> tuple[nn.Module, float]:
    """The network and its final loss in nats."""
    model = network()
    settings = TRAINING.model_copy(update=changes)
    result = train(model, DATA, settings, seed=0, round=0, context=context or Context(device=device))
    return model, result.final_loss


def test_float32_gives_the_weights_of_the_cpu():
    on_gpu, on_cpu = trained("cuda")[0], trained("cpu")[0]
    for name, value in on_cpu.state_dict().items():
        assert_close(on_gpu.state_dict()[name].cpu(), value, rtol=0, atol=5e-3)  # TF32 convolutions have 10 bits of mantissa.


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("gradient_clip_norm", [None, 1.0])
def test_lower_precision_stays_near_float32(precision, gradient_clip_norm):
    wanted = trained("cuda", gradient_clip_norm=gradient_clip_norm)[1]
    assert trained("cuda", precision=precision, gradient_clip_norm=gradient_clip_norm)[1] == pytest.approx(wanted, rel=0.05)


def test_a_stopped_training_continues_with_its_loss_scale_and_ends_near_the_undisturbed_one(tmp_path):
    calls = iter(range(100))
    stopping = Context(device="cuda", scratch=tmp_path, should_stop=lambda: next(calls) == 4)
    with pytest.raises(StopRequested):
        trained("cuda", stopping, precision="float16")
    (checkpoint,) = tmp_path.glob("checkpoint*.pt")
    assert torch.load(checkpoint, weights_only=True)["scaler"]["scale"] > 0

    resumed = trained("cuda", Context(device="cuda", earlier=(tmp_path,)), precision="float16")[0]

    for name, value in trained("cuda", precision="float16")[0].state_dict().items():
        assert_close(resumed.state_dict()[name], value, rtol=0, atol=1e-3)


@pytest.mark.parametrize("method", ATTRIBUTIONS, ids=lambda method: method.__name__)
def test_every_attribution_on_the_gpu_is_that_on_the_cpu(method):
    x_BCHW, target_B = DATA.batch(np.arange(5), device="cpu")
    found = {}
    for device in ("cpu", "cuda"):
        model = network().double().eval().to(device)
        score, background = Score(target_B.to(device)), background_of(x_BCHW.double())
        found[device] = attribute(method(), model, x_BCHW.double().to(device), score, background=background).phi_BCHW
    assert found["cuda"].device.type == "cuda"
    assert_close(found["cuda"].cpu(), found["cpu"], rtol=1e-6, atol=1e-9)


def test_each_local_rank_takes_its_part_of_the_visible_gpus():
    count = torch.cuda.device_count()
    chosen = [choose_device(Resources(gpus_per_node=1), Ranks(rank=r, local_rank=r, world_size=9)) for r in range(2 * count)]
    assert chosen == [f"cuda:{rank % count}" for rank in range(2 * count)]


def test_a_sweep_whose_steps_ask_for_a_gpu_runs_there_and_gives_about_the_results_of_the_cpu(undisturbed, tmp_path):
    resources = {stage: {"gpus_per_node": 1} for stage in ("pretrain", "attribute", "retrain", "evaluate")}
    store = tmp_path / "store"
    done = submit(write_experiment(tmp_path, resources=resources), store=store)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in Store(store).names():
        record = Store(store).record(name)
        if name.split("/")[0] in resources:
            assert record["device"] == torch.cuda.get_device_name(0)
            assert record["peak_gpu_memory_mb"] > 0
    found, wanted = (tables(folder)["results"]["test.accuracy"] for folder in (store, undisturbed))
    np.testing.assert_allclose(found, wanted, atol=0.1)  # 60 test images
    assert attrain("verify", store=store).returncode == 0


def on_rank(rank: int, world_size: int, folder: str) -> None:
    """Train as one of several ranks, each on a GPU of its own."""
    import_ddp()
    os.environ["SLURMD_NODENAME"] = "localhost"
    ranks = Ranks(rank=rank, local_rank=rank, world_size=world_size, launcher="srun")
    device = choose_device(Resources(gpus_per_node=world_size), ranks)
    torch.cuda.set_device(device)
    with process_group(ranks, Path(folder), backend="nccl"):
        model, _ = trained(device, Context(ranks=ranks, device=device))
    torch.save({name: value.cpu() for name, value in model.state_dict().items()}, Path(folder) / f"rank-{rank}.pt")


def test_nccl_ranks_learn_the_weights_of_one(tmp_path):
    world_size = min(2, torch.cuda.device_count())
    if world_size < 2:
        pytest.skip("needs two GPUs: NCCL refuses two ranks on one")
    torch.multiprocessing.spawn(on_rank, args=(world_size, str(tmp_path)), nprocs=world_size)
    wanted = trained("cuda")[0].state_dict()
    for rank in range(world_size):
        found = torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True)
        for name, value in wanted.items():
            assert_close(found[name], value.cpu(), rtol=0, atol=5e-3)


def test_one_rank_can_start_nccl_and_reduce_over_it(tmp_path):
    with process_group(Ranks(launcher="srun"), tmp_path, backend="nccl"):
        total = torch.ones(3, device="cuda")
        torch.distributed.all_reduce(total)
        torch.distributed.barrier()
        assert total.tolist() == [1.0, 1.0, 1.0]
        assert torch.distributed.get_backend() == "nccl"
    assert not torch.distributed.is_initialized()
