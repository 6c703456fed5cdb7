"""What the stages hand one another, on a few digits: each test runs real steps in this process."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file

from pipeline.core.context import Context
from pipeline.core.tables import ATTRIBUTED, INDEX, PREDICTIONS, read_table
from pipeline.methods.legacy import Legacy
from pipeline.methods.models import Mlp
from pipeline.methods.training.settings import Retraining
from pipeline.stages import STAGES, retrain
from pipeline.stages.artifacts import Made, fresh_network, prepared_for, read_array, read_model
from pipeline.stages.retrain import training_set
from tests.stages.runs import (
    BATCH_SIZE,
    FOLDS,
    NUM_PLAIN,
    NUM_TEST,
    NUM_TRAIN,
    NUM_VALIDATION,
    NUM_WORST,
)

FILES = {
    ("prepare", 4): ["dataset.json", "index.parquet", "record.json", "samples.npy"],
    ("pretrain", 5): ["history.json", "model.json", "record.json", "tensorboard", "weights.safetensors"],
    ("attribute", 6): ["attributed.parquet", "attributions.npy", "record.json"],
    ("augment", 4): ["augmentation.json", "augmented.parquet", "record.json", "samples.npy", "sources.npy"],
    ("retrain", 5): ["history.json", "model.json", "record.json", "tensorboard", "weights.safetensors"],
    ("evaluate", 5): ["confusion.parquet", "metrics.json", "predictions.parquet", "record.json"],
}
"""(stage, version): names in its artifact. Where this changes the version has to: an older artifact would be found under the key."""


def test_no_file_of_an_artifact_is_closed_to_those_that_its_folder_is_open_to(finished, tmp_path):
    (tmp_path / "plain").touch()
    files = [path for stage in STAGES for path in finished.store.root.glob(f"{stage.name}/*/**/*") if path.is_file()]
    assert files
    assert {path.stat().st_mode for path in files} == {(tmp_path / "plain").stat().st_mode}


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_the_files_of_an_artifact_are_those_of_its_stages_version(finished, stage):
    folder = finished.folder("append", stage.name)
    assert sorted(path.name for path in folder.iterdir()) == FILES[stage.name, stage.version]


def test_every_sample_has_one_split_and_each_fold_its_share(finished):
    index = finished.prepared().index
    counts = {split: int((index["split"] == split).sum()) for split in set(index["split"])}
    assert counts == {"train": NUM_PLAIN, "validation": NUM_VALIDATION, "test": NUM_TEST}
    assert np.bincount(index["fold"] + 1).tolist() == [NUM_TEST, *[NUM_TRAIN // FOLDS] * FOLDS]
    assert set(index["fold"][index["split"] == "validation"]) == {0}


def test_no_digit_is_in_two_splits(finished):
    table = read_table(finished.folder("none", "prepare") / "index.parquet", INDEX)
    split_of: dict[str, str] = {}
    for digest, split in zip(table["sha256"].to_pylist(), table["split"].to_pylist(), strict=True):
        assert split_of.setdefault(digest, split) == split


@pytest.mark.parametrize("arm", ["append", "replace", "random", "two rounds", "same compute as append"])
def test_only_training_samples_are_attributed_and_trained_on(finished, arm):
    prepared = finished.prepared()
    train_ids = set(prepared.samples("train").sample_ids_N.tolist())
    for round_number in sorted({step.round for step in finished.chain(arm)} - {0}):
        attributed = read_table(finished.folder(arm, "attribute", round_number) / "attributed.parquet", ATTRIBUTED)
        data, _, _ = training_set(prepared, finished.folder(arm, "augment", round_number))
        assert set(attributed["sample_id"].to_pylist()) <= train_ids
        assert set(data.sample_ids_N.tolist()) <= train_ids


def test_samples_made_from_others_than_training_samples_are_refused(finished, tmp_path):
    shutil.copytree(finished.folder("append", "augment"), tmp_path, dirs_exist_ok=True)
    test_id = int(finished.prepared().samples("test").sample_ids_N[0])
    sources = np.load(tmp_path / "sources.npy")
    sources[0] = test_id
    np.save(tmp_path / "sources.npy", sources)
    with pytest.raises(ValueError, match=rf"made from 1 that are no training samples, such as sample_id {test_id}; remove it"):
        training_set(finished.prepared(), tmp_path)


def test_what_is_removed_from_held_out_samples_is_measured_and_not_trained_on(finished):
    prepared, plain = finished.prepared(), read_array(finished.folder("removed", "prepare") / "samples.npy")
    columns, made = finished.made("removed")
    assert columns["source_sample_id"].tolist() == list(range(NUM_TRAIN + NUM_TEST))
    assert ((made != plain).sum((1, 2, 3)) > 0).all()
    data, _, num_made = training_set(prepared, finished.folder("removed", "augment"))
    train_ids = prepared.samples("train").sample_ids_N
    assert (data.sample_ids_N.tolist(), num_made) == (train_ids.tolist(), NUM_PLAIN)
    np.testing.assert_array_equal(data.stored(slice(None)), made[train_ids])
    test = prepared.samples("test")
    np.testing.assert_array_equal(
        Made(finished.folder("removed", "augment")).in_place_of(test).stored(slice(None)), made[test.sample_ids_N]
    )
    # What evaluate says is what the model says of the made samples.
    model = read_model(finished.folder("removed", "retrain"), device="cpu")
    table = read_table(finished.folder("removed", "evaluate") / "predictions.parquet", PREDICTIONS).to_pandas().set_index("sample_id")
    facts = prepared.facts
    x = (torch.from_numpy(made[test.sample_ids_N]).float() / 255 - facts.mean_C[0]) / facts.std_C[0]
    with torch.no_grad():
        np.testing.assert_allclose(
            torch.nn.functional.cross_entropy(model(x), torch.from_numpy(test.labels_N), reduction="none"),
            table.loc[test.sample_ids_N, "loss"],
            rtol=1e-4,
            atol=1e-5,
        )


@pytest.mark.parametrize(("arm", "rule"), [("append", "replace_top"), ("random", "replace_random"), ("bottom", "replace_bottom")])
def test_every_made_sample_says_what_it_was_made_of_when_and_by_what(finished, arm, rule):
    columns, samples = finished.made(arm)
    attributed = read_table(finished.folder(arm, "attribute") / "attributed.parquet", ATTRIBUTED)
    assert len(samples) == NUM_WORST
    assert columns["sample_id"].tolist() == list(range(NUM_WORST))
    assert columns["source_sample_id"].tolist() == attributed["sample_id"].to_pylist()
    assert set(columns["round"]) == {1}
    assert set(columns["rule"]) == {rule}
    index = finished.prepared().index
    assert columns["label"].tolist() == index["label"][columns["source_sample_id"]].tolist()


def test_a_made_sample_differs_from_its_source_in_the_pixels_with_the_highest_attribution_only(finished):
    columns, samples = finished.made("top")
    plain = read_array(finished.folder("top", "prepare") / "samples.npy")[columns["source_sample_id"]]
    phi = read_array(finished.folder("top", "attribute") / "attributions.npy").reshape(NUM_WORST, -1)
    changed = (samples != plain).reshape(NUM_WORST, -1)
    count = round(0.1 * 28 * 28)
    for changed_P, phi_P in zip(changed, phi, strict=True):
        highest = np.argsort(-phi_P, kind="stable")[:count]
        assert set(np.flatnonzero(changed_P)) <= set(highest)


def test_the_random_and_the_inverted_control_write_over_as_many_pixels(finished):
    for arm in ("random", "bottom", "top"):
        columns, samples = finished.made(arm)
        plain = read_array(finished.folder(arm, "prepare") / "samples.npy")[columns["source_sample_id"]]
        brightest = plain.max((2, 3), keepdims=True)
        changed = (samples != plain).sum((1, 2, 3))
        # What was at its image's greatest value already does not show as changed.
        assert (changed <= round(0.1 * 28 * 28)).all(), arm
        assert (changed + ((plain == brightest) & (samples == brightest)).sum((1, 2, 3)) >= round(0.1 * 28 * 28)).all(), arm


def test_a_grafted_sample_has_the_strongest_evidence_of_another_in_its_place_beside_its_own_label(finished):
    columns, samples = finished.made("grafted")
    plain = read_array(finished.folder("grafted", "prepare") / "samples.npy").reshape(-1, 28 * 28)
    phi = read_array(finished.folder("grafted", "attribute") / "attributions.npy").reshape(NUM_WORST, -1)
    highest = np.argsort(-phi, axis=1, kind="stable")[:, : round(0.1 * 28 * 28)]
    rows = dict(zip(columns["source_sample_id"].tolist(), highest, strict=True))
    for image, source, donor in zip(samples.reshape(NUM_WORST, -1), columns["source_sample_id"], columns["donor_sample_id"], strict=True):
        assert donor != source
        expected = plain[source].copy()
        expected[rows[source]] = plain[source].max()
        expected[rows[donor]] = plain[donor][rows[donor]]
        assert np.array_equal(image, expected)
    assert len(np.unique(columns["donor_sample_id"])) > NUM_WORST / 2
    assert columns["label"].tolist() == finished.prepared().index["label"][columns["source_sample_id"]].tolist()
    assert set(finished.made("top")[0]["donor_sample_id"]) == {-1}


def test_appended_samples_are_trained_on_beside_their_sources_and_replaced_ones_in_their_place(finished):
    prepared = finished.prepared()
    plain_ids = prepared.samples("train").sample_ids_N
    appended, extra, num_made = training_set(prepared, finished.folder("append", "augment"))
    assert (len(appended), extra, num_made) == (NUM_PLAIN + NUM_WORST, 0, NUM_WORST)
    replaced, extra, num_made = training_set(prepared, finished.folder("replace", "augment"))
    assert (len(replaced), extra, num_made) == (NUM_PLAIN, 0, NUM_WORST)
    assert sorted(replaced.sample_ids_N.tolist()) == sorted(plain_ids.tolist())
    assert len(np.unique(appended.sample_ids_N)) == NUM_PLAIN


@pytest.mark.parametrize("mode", ["append", "replace"])
def test_the_same_compute_control_takes_exactly_as_many_optimizer_steps_on_plain_samples(finished, mode):
    control, treated = finished.metrics(f"same compute as {mode}", "retrain"), finished.metrics(mode, "retrain")
    per_epoch = NUM_PLAIN + (NUM_WORST if mode == "append" else 0)
    assert control["num_steps"] == treated["num_steps"] == 2 * -(-per_epoch // BATCH_SIZE)
    assert control["samples_seen"] == treated["samples_seen"] == 2 * per_epoch
    assert (control["num_made"], control["made_samples_seen"]) == (0, 0)
    assert (treated["num_made"], treated["made_samples_seen"]) == (NUM_WORST, 2 * NUM_WORST)


def test_a_second_round_explains_the_model_that_the_first_one_left(finished):
    chain = [(step.stage, step.round) for step in finished.chain("two rounds")]
    rounds = [(stage, number) for number in (1, 2) for stage in ("attribute", "augment", "retrain")]
    assert sorted(chain) == sorted([("prepare", 0), ("pretrain", 0), *rounds, ("evaluate", 2)])
    second = next(step for step in finished.chain("two rounds") if (step.stage, step.round) == ("attribute", 2))
    first = next(step for step in finished.chain("two rounds") if (step.stage, step.round) == ("retrain", 1))
    assert second.inputs["model"] == first.name
    one, two = (read_array(finished.folder("two rounds", "attribute", number) / "attributions.npy") for number in (1, 2))
    assert not np.array_equal(one, two)


def test_a_schedule_says_how_many_epochs_each_round_has_under_one_learning_rate(finished):
    chain = [step for step in finished.chain("scheduled") if step.stage in ("pretrain", "retrain")]
    histories = [json.loads((finished.store.folder(step.name) / "history.json").read_text()) for step in chain]
    assert [(step.stage, step.round) for step in chain] == [("pretrain", 0), ("retrain", 1), ("retrain", 2)]
    assert [len(history) for history in histories] == [1, 2, 1]
    rates = [row["learning_rate"] for history in histories for row in history]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.2 * rates[0]


def test_a_published_resplit_validates_on_samples_that_were_trained_on_before_and_leaves_the_test_apart(finished):
    first, second, third = (prepared_for(Legacy(resplit=True), finished.prepared().folder, seed=0, round=number) for number in range(3))
    trained, validated = set(first.samples("train").sample_ids_N.tolist()), set(third.samples("validation").sample_ids_N.tolist())
    assert (len(trained), len(validated)) == (NUM_PLAIN, NUM_VALIDATION)
    assert len(validated & trained) > NUM_VALIDATION / 2  # Four in five of them, by chance.
    assert len(validated & (trained | set(second.samples("train").sample_ids_N.tolist()))) > 0.8 * NUM_VALIDATION
    for drawn in (first, second, third):
        assert drawn.samples("test").sample_ids_N.tolist() == finished.prepared().samples("test").sample_ids_N.tolist()
    judged = pq.read_table(finished.folder("split anew", "evaluate") / "predictions.parquet").to_pandas()
    assert set(judged.loc[judged["split"] == "validation", "sample_id"]) == validated


def test_dead_proxies_are_made_and_never_trained_on(finished):
    metrics = finished.metrics("dead proxies", "retrain")
    assert finished.metrics("dead proxies", "augment")["num_made"] == NUM_WORST
    assert (metrics["num_made"], metrics["samples_seen"]) == (0, 2 * NUM_PLAIN)


def test_a_second_round_adds_to_what_the_first_one_did(finished):
    plain = read_array(finished.prepared().folder / "samples.npy")
    chosen = [
        read_table(finished.folder("two rounds", "attribute", number) / "attributed.parquet", ATTRIBUTED)["sample_id"].to_numpy()
        for number in (1, 2)
    ]
    (one, first), (two, second) = (finished.made("two rounds", number) for number in (1, 2))
    ids = np.asarray(two["source_sample_id"])
    np.testing.assert_array_equal(ids, np.union1d(*chosen))
    np.testing.assert_array_equal(two["round"], np.where(np.isin(ids, chosen[1]), 2, 1))
    first_of = dict(zip(one["source_sample_id"], first, strict=True))
    assert set(chosen[0]) - set(chosen[1])
    assert set(chosen[0]) & set(chosen[1])
    for source, image, num_changed in zip(ids, second, two["num_changed"], strict=True):
        assert num_changed == (image != plain[source]).any(axis=0).sum()
        if source in first_of and source not in chosen[1]:
            np.testing.assert_array_equal(image, first_of[source])
        if source in first_of and source in chosen[1]:
            # At most a round's worth of pixels differs from the first round's image, and none that the first round had changed.
            differs_HW = (image != first_of[source]).any(axis=0)
            assert 0 < differs_HW.sum() <= round(0.1 * 28 * 28)
            assert not (differs_HW & (first_of[source] != plain[source]).any(axis=0)).any()


def test_in_mode_replace_an_arm_draws_its_samples_in_the_order_of_plain_training(finished):
    data, _, num_made = training_set(finished.prepared(), finished.folder("replace", "augment"))
    assert num_made == NUM_WORST
    np.testing.assert_array_equal(data.sample_ids_N, finished.prepared().samples("train").sample_ids_N)


def test_the_first_round_of_two_is_the_round_of_a_run_with_one(finished):
    assert finished.folder("two rounds", "retrain", 1) == finished.folder("append", "retrain", 1)


@pytest.mark.parametrize("start", ["pretrained", "scratch"])
def test_retraining_starts_at_the_weights_that_were_explained_or_at_those_that_pretraining_started_from(finished, tmp_path, start):
    roles = {"prepare": "prepare", "augment": "augment", "model": "pretrain"}
    inputs = {role: finished.folder("append", stage) for role, stage in roles.items()}
    standing_still = Retraining(start=start, epochs=1, learning_rate=1e-12, momentum=0.0)
    retrain.run(0, 1, Mlp(hidden=(16,)), standing_still, inputs=inputs, out=tmp_path, context=Context())
    fresh = fresh_network(Mlp(hidden=(16,)), finished.prepared(), seed=0, device="cpu").state_dict()
    starts = {"pretrained": load_file(inputs["model"] / "weights.safetensors"), "scratch": {name: v.numpy() for name, v in fresh.items()}}
    for name, value in load_file(tmp_path / "weights.safetensors").items():
        np.testing.assert_allclose(value, starts[start][name], rtol=0, atol=1e-9)
        assert np.abs(starts["pretrained"][name] - starts["scratch"][name]).max() > 1e-2, name


@pytest.mark.parametrize(("stage", "epochs"), [("pretrain", 3), ("retrain", 2)])
def test_a_trained_model_keeps_its_history_as_tensorboard_scalars(finished, stage, epochs):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = finished.folder("append", stage)
    history = json.loads((folder / "history.json").read_text())
    assert len(history) == epochs
    assert len(list((folder / "tensorboard").glob("events.out.tfevents.*"))) == 1
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {f"training/{name}" for name in history[0]}
    for name in history[0]:
        points = [(event.step, event.value) for event in events.Scalars(f"training/{name}")]
        assert points == [(row["step"], pytest.approx(row[name])) for row in history]


def test_a_run_in_which_nothing_is_selected_ends_well(finished):
    assert finished.metrics("nothing selected", "attribute")["num_attributed"] == 0
    columns, samples = finished.made("nothing selected")
    assert samples.shape == (0, 1, 28, 28)
    assert len(columns["sample_id"]) == 0
    assert finished.metrics("nothing selected", "retrain")["num_made"] == 0
    assert 0 <= finished.metrics("nothing selected", "evaluate")["test.accuracy"] <= 1


def test_every_stage_ran_and_every_record_tells_its_settings_and_inputs(finished):
    assert {step.stage for step in finished.plan.steps} == {stage.name for stage in STAGES}
    for step in finished.plan.steps:
        record = finished.store.record(step.name)
        assert (record["settings"], record["inputs"], record["round"]) == (step.settings, step.inputs, step.round)
        assert finished.store.check(step.name) == []
