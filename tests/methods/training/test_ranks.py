"""Two gloo ranks do what one rank does: the same batches, weights up to rounding, one stop, one error."""

import gc
import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pipeline.core.context import Context, StopRequested
from pipeline.core.ranks import Ranks
from pipeline.methods.augmentation import Aba, BoxDropout, InputDropout, SelectiveCut, SelectivePaste
from pipeline.methods.augmentation.mixing import AttentiveCutMix, MixUp, SaliencyMix
from pipeline.methods.augmentation.transforms import Crop, Flip
from pipeline.methods.models import ResNet1dWang
from pipeline.methods.models.windows import OverWindows
from pipeline.methods.training.data import SampleSet
from pipeline.methods.training.ddp import any_rank, barrier, broadcast_text, import_ddp, sum_over_ranks
from pipeline.methods.training.loop import NonFiniteLossError, train
from pipeline.methods.training.penalty import RightReasons, SaliencyGuided
from pipeline.methods.training.settings import Training

PIXELS = np.random.default_rng(0).integers(0, 256, size=(22, 1, 6, 6), dtype=np.uint8)
MASKS = np.random.default_rng(3).random((22, 6, 6)) < 0.3
DATA = SampleSet.of(PIXELS, labels=np.arange(22) % 3, mean=0.5, std=0.25, masks=MASKS)
VALIDATION = DATA.take(slice(5))
# 22 samples in batches of 7, 7, 7 and 1: shared 3 + 4, and in the last batch rank 0 has no sample at all.
SETTINGS = {
    "sgd": Training(epochs=3, batch_size=7, gradient_clip_norm=1.0, label_smoothing=0.1),
    "adamw": Training(epochs=3, batch_size=7, optimizer="adamw", learning_rate=0.001, ema_decay=0.9),
    "one": Training(epochs=1, batch_size=1),
    "mixed": Training(epochs=2, batch_size=7, transforms=(Crop(padding_px=1), Flip()), mixing=MixUp(alpha=1.0), micro_batches=2),
    "mixed by saliency": Training(epochs=2, batch_size=7, mixing=SaliencyMix(), micro_batches=2),
    "mixed by cells": Training(epochs=2, batch_size=7, mixing=AttentiveCutMix(grid=3, k=2)),
    "part of it": Training(epochs=2, batch_size=7, trained_blocks=1, head_learning_rate=0.1),
    "guided": Training(epochs=2, batch_size=7, guide=Aba(strength=0.3, variant="mend", every=1), micro_batches=2),
    "hidden": Training(epochs=2, batch_size=7, guide=InputDropout(share=0.2, randomness=0.3, probability=0.7), micro_batches=2),
    "boxes": Training(epochs=2, batch_size=7, guide=BoxDropout(k=3, fill="noise")),
    "kept": Training(epochs=2, batch_size=7, guide=SelectiveCut(size_px=3), micro_batches=2),
    "pasted": Training(epochs=2, batch_size=7, guide=SelectivePaste(size_px=3, transforms=(Crop(padding_px=1), Flip()))),
    "consistent": Training(epochs=2, batch_size=7, penalty=SaliencyGuided(), micro_batches=2),
    "for right reasons": Training(
        epochs=2, batch_size=7, transforms=(Crop(padding_px=1), Flip()), penalty=RightReasons(weight=0.1, wrong="outside"), micro_batches=2
    ),
    "in parts": Training(epochs=2, batch_size=7, micro_batches=3, class_weights="balanced"),
}
BATCH_NORM = ("sgd", "adamw", "one", "part of it", "consistent", "for right reasons")
FLOAT16 = Training(epochs=6, batch_size=5, precision="float16")


SIGNALS = np.random.default_rng(1).normal(size=(21, 2, 30)).astype(np.float32)
LABELS = (np.random.default_rng(2).random((21, 3)) < 0.4).astype(np.float32)
RECORDS = SampleSet.of(SIGNALS, labels=np.full(21, -1), task="labels", values=LABELS, mean=0.0, std=1.0, crop_steps=12)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


def normalised():
    """A network with batch normalisation of maps, and without a scale or a set momentum."""
    torch.manual_seed(0)
    # Without biases: batch normalisation takes them away again, and AdamW makes whole steps of the rounding that is their gradient.
    first, second = nn.Conv2d(1, 4, 3, bias=False), nn.Conv2d(4, 4, 3, bias=False)
    maps = [first, nn.BatchNorm2d(4), nn.ReLU(), second, nn.BatchNorm2d(4, affine=False, momentum=None), nn.ReLU()]
    return nn.Sequential(*maps, nn.Flatten(), nn.Linear(16, 3))


def trained_on_signals(context):
    """Crops of signals with labels; batch normalisation of maps over time, and of maps alone."""
    torch.manual_seed(0)
    network = ResNet1dWang(dropout=0.0).build(input_shape=(2, 12), num_outputs=3)
    model = OverWindows(network, length=12)
    settings = Training(epochs=2, batch_size=7)
    result = train(model, RECORDS, settings, seed=0, round=0, context=context, validation=RECORDS.take(slice(5)))
    return {"weights": model.state_dict(), "losses": [(row["loss"], row["validation_loss"]) for row in result.history]}


def trained(name, context, *, model=None):
    model = network() if model is None else model
    result = train(model, DATA, SETTINGS[name], seed=0, round=0, context=context, validation=VALIDATION)
    return {"weights": model.state_dict(), "losses": [(row["loss"], row["validation_loss"]) for row in result.history]}


def outcome_of_stop(context, folder):
    """Rank 1 alone is asked to stop, in step 6; then both go on from other weights."""
    calls = iter(range(100))
    stopping = replace(context, scratch=folder, should_stop=lambda: context.ranks.rank == 1 and next(calls) == 5)
    try:
        trained("sgd", stopping)
    except StopRequested as stop:
        return str(stop), trained("sgd", replace(context, earlier=(folder,)), model=network(99))
    return "not stopped", None


def outcome_of_divergence(context):
    """One sample, which is in one rank's part only, gives a loss that is no number."""
    poisoned_1CHW, _ = DATA.batch(np.array([3]), device="cpu")

    def poison(_, inputs, logits_BK):
        return logits_BK * float("nan") if (inputs[0] == poisoned_1CHW).flatten(1).all(dim=1).any() else logits_BK

    model = network()
    model.register_forward_hook(poison)
    try:
        trained("one", context, model=model)
    except NonFiniteLossError as error:
        return str(error)
    return "no error"


def outcome_of_overflow(context):
    """The gradients of rank 1 alone are infinite."""
    model = network()
    if context.ranks.rank == 1:
        model[0].bias.register_hook(lambda grad: grad * torch.inf)
    try:
        train(model, DATA, FLOAT16, seed=0, round=0, context=context)
    except NonFiniteLossError as error:
        return str(error)
    return "no error"


def on_rank(rank, folder):
    """All that is tried on two ranks; what each found lies in a file afterwards."""
    torch.set_num_threads(1)
    import_ddp()
    meeting = {"init_method": f"file://{folder}/meeting", "rank": rank, "world_size": 2, "timeout": timedelta(seconds=60)}
    torch.distributed.init_process_group("gloo", **meeting)
    found = outcomes(Context(ranks=Ranks(rank=rank, world_size=2)), Path(folder))
    torch.distributed.destroy_process_group()
    gc.collect()
    found["threads"] = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    torch.save(found, Path(folder) / f"rank-{rank}.pt")


def outcomes(context, folder):
    ranks = context.ranks
    found = {name: trained(name, context) for name in SETTINGS}
    found |= {f"{name} batch_norm": trained(name, context, model=normalised()) for name in BATCH_NORM}
    found["signals"] = trained_on_signals(context)
    found["stop"], found["resumed"] = outcome_of_stop(context, folder / "scratch")
    found["divergence"] = outcome_of_divergence(context)
    found["overflow"] = outcome_of_overflow(context)
    found["text"] = broadcast_text("f\u00fcr alle" if ranks.is_first else "not this", ranks)
    found["nothing"] = broadcast_text(None, ranks)
    found["sum"] = sum_over_ranks([1.0, float(ranks.rank)], ranks)
    found["flags"] = [any_rank(ranks, flag=flag) for flag in (False, ranks.rank == 1, True)]
    barrier(ranks)
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of the two ranks found."""
    folder = tmp_path_factory.mktemp("ranks")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.multiprocessing.spawn(on_rank, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(2)], folder


def assert_near(found, wanted):
    # float32: sums over a batch in another order.
    assert_close(found["weights"], wanted["weights"], rtol=0, atol=1e-5)
    assert found["losses"] == [pytest.approx(row, abs=1e-5) for row in wanted["losses"]]


@pytest.mark.parametrize("name", SETTINGS)
def test_two_ranks_learn_the_weights_of_one(found, name):
    for rank in found[0]:
        assert_near(rank[name], trained(name, Context()))


@pytest.mark.parametrize("name", BATCH_NORM)
def test_batch_normalisation_takes_the_statistics_of_the_global_batch_on_two_ranks(found, name):
    expected = trained(name, Context(), model=normalised())
    assert {"1.running_mean", "4.running_var"} <= expected["weights"].keys()
    for rank in found[0]:
        assert_near(rank[f"{name} batch_norm"], expected)


def test_two_ranks_take_the_crops_of_one_and_normalise_signals_as_one_does(found):
    expected = trained_on_signals(Context())
    for rank in found[0]:
        assert_near(rank["signals"], expected)


@pytest.mark.parametrize("name", SETTINGS)
def test_ranks_hold_equal_weights_bit_for_bit(found, name):
    first, second = (rank[name]["weights"] for rank in found[0])
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_stop_asked_of_one_rank_stops_all_after_the_same_step_with_one_checkpoint(found):
    ranks, folder = found
    assert [rank["stop"] for rank in ranks] == ["training stopped after step 6 of 12; run the same command again to continue"] * 2
    assert [path.name for path in (folder / "scratch").glob("checkpoint*")] == ["checkpoint-000000006.pt"]


def test_ranks_that_resume_equal_ranks_that_were_not_disturbed(found):
    for rank in found[0]:
        assert all(torch.equal(rank["resumed"]["weights"][key], value) for key, value in rank["sgd"]["weights"].items())
        assert rank["resumed"]["losses"] == rank["sgd"]["losses"]


def test_a_checkpoint_of_two_ranks_continues_on_one(found):
    ranks, folder = found
    assert_near(trained("sgd", Context(earlier=(folder / "scratch",)), model=network(99)), ranks[0]["sgd"])


def test_a_loss_that_is_not_finite_on_one_rank_is_the_same_error_on_all(found):
    first, second = (rank["divergence"] for rank in found[0])
    assert first == second
    assert "the loss became nan at step" in first


def test_gradients_that_are_not_finite_on_one_rank_are_skipped_on_all(found):
    first, second = (rank["overflow"] for rank in found[0])
    assert first == second
    assert "the gradients of 20 steps in a row were not finite at step 20 of 30" in first


def test_ranks_agree_on_text_sums_and_flags(found):
    for rank in found[0]:
        assert rank["text"] == "f\u00fcr alle"
        assert rank["nothing"] == ""
        assert rank["sum"] == [2.0, 1.0]
        assert rank["flags"] == [False, True, True]


def test_no_thread_of_the_group_outlives_it(found):
    # One that does can abort the process at its end, after all work was done.
    for rank in found[0]:
        assert not [name for name in rank["threads"] if "gloo" in name]


def test_one_rank_needs_no_process_group():
    assert sum_over_ranks([1.0, 2.0], Ranks()) == [1.0, 2.0]
    assert [any_rank(Ranks(), flag=flag) for flag in (True, False)] == [True, False]
    assert broadcast_text("text", Ranks()) == "text"
    barrier(Ranks())
