"""What the stages hand one another, on a few digits: each test runs real steps in this process."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file, save_file

from jobs.experiment import Run, load_experiment
from jobs.planning import make_plan
from jobs.run import DONE, Task, run_task
from pipeline.config import RunConfig
from pipeline.core.context import Context
from pipeline.core.plan import Plan, PlannedStep
from pipeline.core.store import Store
from pipeline.core.tables import ATTRIBUTED, AUGMENTED, CURVES, INDEX, PREDICTIONS, QUALITY, read_table
from pipeline.methods.attribution import ConstantControl, Gradient, IntegratedGradients, TrueLabel
from pipeline.methods.augmentation import NoAugmentation, Worst
from pipeline.methods.datasets import MnistSmall
from pipeline.methods.metrics import Accuracy, Evaluation
from pipeline.methods.metrics.localisation import Sparseness
from pipeline.stages import STAGES, attribute, steps_of
from pipeline.stages.artifacts import Prepared, read_array
from pipeline.stages.explaining import NonFiniteAttributionError
from pipeline.stages.retrain import training_set

NUM_TRAIN, NUM_TEST, FOLDS = 200, 100, 5
NUM_VALIDATION = NUM_TRAIN // FOLDS
NUM_PLAIN = NUM_TRAIN - NUM_VALIDATION
NUM_WORST = NUM_PLAIN // 2
BATCH_SIZE = 32
NUM_EXPLAINED = 70
EXPERIMENT = f"""
experiment: stages
base:
  data: {{dataset: mnist_small, num_train: {NUM_TRAIN}, num_test: {NUM_TEST}, folds: {FOLDS}}}
  model: {{model: mlp, hidden: [16]}}
  pretraining: {{epochs: 3, batch_size: {BATCH_SIZE}}}
  attribution: {{method: gradient}}
  selection: {{rule: worst, fraction: 0.5}}
  retraining: {{epochs: 2, batch_size: {BATCH_SIZE}}}
sweep:
  list:
    - {{arm: none, augmentation: {{rule: none}}}}
    - {{arm: same compute as append, augmentation: {{rule: same_compute, mode: append}}}}
    - {{arm: same compute as replace, augmentation: {{rule: same_compute, mode: replace}}}}
    - {{arm: append, augmentation: {{rule: replace_top, mode: append}}}}
    - {{arm: replace, augmentation: {{rule: replace_top, mode: replace}}}}
    - {{arm: random, augmentation: {{rule: replace_random, mode: append, value: max}}}}
    - {{arm: bottom, augmentation: {{rule: replace_bottom, mode: append, value: max}}}}
    - {{arm: top, augmentation: {{rule: replace_top, mode: append, value: max}}}}
    - {{arm: from scratch, augmentation: {{rule: replace_top, mode: append}}, retraining: {{start: scratch}}}}
    - {{arm: two rounds, rounds: 2, augmentation: {{rule: replace_top, mode: append}}}}
    - {{arm: nothing selected, selection: {{rule: misclassified}}, augmentation: {{rule: replace_top, mode: replace}},
        data: {{num_train: 20}}, pretraining: {{epochs: 200}}}}
    - {{arm: explained, augmentation: {{rule: none}}, evaluation: {{metrics: [accuracy, completeness_error, removal_curve, deletion_auc],
        num_explained: {NUM_EXPLAINED}}}}}
    - {{arm: explained by chance, augmentation: {{rule: none}}, attribution: {{method: random}},
        evaluation: {{metrics: [accuracy, deletion_auc], num_explained: {NUM_EXPLAINED}}}}}
table: {{control: none}}
"""


class Nothing(ConstantControl):
    """Attributes nothing to anything."""

    def __call__(self, model, x_BCHW, score, *, background):
        return torch.zeros_like(x_BCHW)


class Finished:
    """The artifacts of all runs."""

    def __init__(self, plan: Plan, store: Store, runs: tuple[Run, ...]) -> None:
        self.plan, self.store = plan, store
        self.steps = {step.name: step for step in plan.steps}
        lasts = [run["step"] for run in plan.facts["identity"]["runs"]]
        self.last = {run.arm: self.steps[name] for run, name in zip(runs, lasts, strict=True)}

    def chain(self, arm: str) -> list[PlannedStep]:
        """All steps of an arm, inputs first."""
        found: dict[str, PlannedStep] = {}

        def visit(step: PlannedStep) -> None:
            for name in step.inputs.values():
                visit(self.steps[name])
            found[step.name] = step

        visit(self.last[arm])
        return list(found.values())

    def folder(self, arm: str, stage: str, round_number: int | None = None) -> Path:
        """The artifact of an arm's stage, of the last round unless another is asked for."""
        steps = [step for step in self.chain(arm) if step.stage == stage and round_number in (None, step.round)]
        return self.store.folder(steps[-1].name)

    def metrics(self, arm: str, stage: str, round_number: int | None = None) -> dict[str, float]:
        return json.loads((self.folder(arm, stage, round_number) / "record.json").read_text())["metrics"]

    def made(self, arm: str, round_number: int | None = None) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """(columns of the table of made samples, the samples)."""
        folder = self.folder(arm, "augment", round_number)
        table = read_table(folder / "augmented.parquet", AUGMENTED)
        return {name: table[name].to_numpy() for name in table.column_names}, read_array(folder / "samples.npy")

    def prepared(self, arm: str = "none") -> Prepared:
        return Prepared(self.folder(arm, "prepare"))


def run_all(folder: Path, text: str) -> Finished:
    """Run an experiment in this process."""
    path = folder / "stages.yaml"
    path.write_text(text)
    experiment, store = load_experiment(str(path)), Store(folder / "store")
    plan = make_plan(experiment, store)
    for step in plan.steps:
        assert run_task(Task(plan=plan, store=store, step=step, data_root=folder, wait_s=0)) == DONE, step
    return Finished(plan, store, experiment.runs)


FILES = {
    ("prepare", 3): ["dataset.json", "index.parquet", "record.json", "samples.npy"],
    ("pretrain", 3): ["history.json", "model.json", "record.json", "tensorboard", "weights.safetensors"],
    ("attribute", 4): ["attributed.parquet", "attributions.npy", "record.json"],
    ("augment", 2): ["augmentation.json", "augmented.parquet", "record.json", "samples.npy", "sources.npy"],
    ("retrain", 3): ["history.json", "model.json", "record.json", "tensorboard", "weights.safetensors"],
    ("evaluate", 3): ["confusion.parquet", "metrics.json", "predictions.parquet", "record.json"],
}
"""(stage, version): names in its artifact. Where this changes the version has to: an older artifact would be found under the key."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Finished:
    return run_all(tmp_path_factory.mktemp("stages"), EXPERIMENT)


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
    train_ids = set(prepared.images("train").sample_ids_N.tolist())
    for round_number in sorted({step.round for step in finished.chain(arm)} - {0}):
        attributed = read_table(finished.folder(arm, "attribute", round_number) / "attributed.parquet", ATTRIBUTED)
        data, _, _ = training_set(prepared, finished.folder(arm, "augment", round_number))
        assert set(attributed["sample_id"].to_pylist()) <= train_ids
        assert set(data.sample_ids_N.tolist()) <= train_ids


def test_samples_made_from_others_than_training_samples_are_refused(finished, tmp_path):
    shutil.copytree(finished.folder("append", "augment"), tmp_path, dirs_exist_ok=True)
    test_id = int(finished.prepared().images("test").sample_ids_N[0])
    sources = np.load(tmp_path / "sources.npy")
    sources[0] = test_id
    np.save(tmp_path / "sources.npy", sources)
    with pytest.raises(ValueError, match=rf"made from 1 that are no training samples, such as sample_id {test_id}; remove it"):
        training_set(finished.prepared(), tmp_path)


def test_the_worst_half_of_the_training_samples_is_attributed(finished):
    attributed = read_table(finished.folder("append", "attribute") / "attributed.parquet", ATTRIBUTED)
    phi = read_array(finished.folder("append", "attribute") / "attributions.npy")
    assert phi.shape == (NUM_WORST, 1, 28, 28)
    assert attributed["sample_id"].to_pylist() == sorted(attributed["sample_id"].to_pylist())
    np.testing.assert_allclose(phi.sum((1, 2, 3), dtype=np.float64), attributed["sum"].to_numpy(), rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(phi.max((1, 2, 3)), attributed["max"].to_numpy())


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


def test_appended_samples_are_trained_on_beside_their_sources_and_replaced_ones_in_their_place(finished):
    prepared = finished.prepared()
    plain_ids = prepared.images("train").sample_ids_N
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
    np.testing.assert_array_equal(data.sample_ids_N, finished.prepared().images("train").sample_ids_N)


def test_the_first_round_of_two_is_the_round_of_a_run_with_one(finished):
    assert finished.folder("two rounds", "retrain", 1) == finished.folder("append", "retrain", 1)


def test_retraining_from_scratch_does_not_start_at_the_pretrained_weights(finished):
    weights = {arm: load_file(finished.folder(arm, "retrain") / "weights.safetensors") for arm in ("append", "from scratch")}
    assert any(not np.allclose(weights["append"][name], weights["from scratch"][name], atol=1e-3) for name in weights["append"])


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


def test_a_gap_is_missing_just_where_the_method_promises_no_sum(finished, tmp_path):
    table = read_table(finished.folder("append", "attribute") / "attributed.parquet", ATTRIBUTED)
    assert table["completeness_gap"].null_count == NUM_WORST
    inputs = {stage: finished.folder("append", stage) for stage in ("prepare", "pretrain")}
    inputs["model"] = inputs.pop("pretrain")
    attribute.run(0, 1, IntegratedGradients(num_steps=2), TrueLabel(), Worst(), inputs=inputs, out=tmp_path, context=Context())
    assert read_table(tmp_path / "attributed.parquet", ATTRIBUTED)["completeness_gap"].null_count == 0


@pytest.mark.parametrize("method", [Gradient(), IntegratedGradients(num_steps=2), ConstantControl(), Nothing()], ids=lambda m: m.method)
def test_the_record_says_how_far_sums_are_from_complete_and_how_many_maps_are_zero(finished, tmp_path, method):
    inputs = {"prepare": finished.folder("append", "prepare"), "model": finished.folder("append", "pretrain")}
    context = Context()
    attribute.run(0, 1, method, TrueLabel(), Worst(), inputs=inputs, out=tmp_path, context=context)
    assert context.metrics["num_attributed"] == NUM_WORST
    assert context.metrics["num_zero_attributions"] == (NUM_WORST if isinstance(method, Nothing) else 0)
    assert ("max_relative_gap" in context.metrics) == (method.sums_from is not None)
    if method.sums_from is not None:
        table = read_table(tmp_path / "attributed.parquet", ATTRIBUTED)
        gap, total = (table[name].to_numpy().astype(np.float64) for name in ("completeness_gap", "sum"))
        relative = np.abs(gap) / np.maximum(np.abs(total - gap), 1e-3)
        # The table's columns and the differences that were divided by are float32.
        assert context.metrics["max_relative_gap"] == pytest.approx(relative.max(), rel=1e-3)
        assert context.metrics["mean_relative_gap"] == pytest.approx(relative.mean(), rel=1e-3)


def test_sums_that_are_further_off_than_allowed_are_an_error_that_names_the_worst_sample(finished, tmp_path):
    inputs = {"prepare": finished.folder("append", "prepare"), "model": finished.folder("append", "pretrain")}
    context, free = Context(), IntegratedGradients(num_steps=2)
    attribute.run(0, 1, free, TrueLabel(), Worst(), inputs=inputs, out=tmp_path, context=context)
    largest = context.metrics["max_relative_gap"]
    allowed = free.model_copy(update={"max_relative_gap": largest * 1.001})
    attribute.run(0, 1, allowed, TrueLabel(), Worst(), inputs=inputs, out=tmp_path, context=Context())
    refused = free.model_copy(update={"max_relative_gap": largest * 0.999})
    table = read_table(tmp_path / "attributed.parquet", ATTRIBUTED)
    gap, total = (table[name].to_numpy().astype(np.float64) for name in ("completeness_gap", "sum"))
    worst = table["sample_id"][int(np.argmax(np.abs(gap) / np.maximum(np.abs(total - gap), 1e-3)))]
    words = rf"attributions of 1 of {NUM_WORST} samples miss .* the worst of them sample_id {worst}, .*; set attribution\.num_steps higher"
    with pytest.raises(attribute.IncompleteAttributionError, match=words):
        attribute.run(0, 1, refused, TrueLabel(), Worst(), inputs=inputs, out=tmp_path, context=Context())


@pytest.mark.parametrize("what", ["loss", "sum"])
def test_what_is_not_finite_is_an_error_that_names_the_first_sample(finished, tmp_path, what, monkeypatch):
    inputs = {"prepare": finished.folder("append", "prepare"), "model": tmp_path / "model"}
    shutil.copytree(finished.folder("append", "pretrain"), inputs["model"])
    weights = load_file(inputs["model"] / "weights.safetensors")
    if what == "loss":
        weights["layers.3.weight"][:] = np.inf
        save_file(weights, inputs["model"] / "weights.safetensors")
    else:
        monkeypatch.setattr(Gradient, "__call__", lambda *_, **__: torch.full((NUM_WORST, 1, 28, 28), torch.nan))
    ids = finished.prepared().images("train").sample_ids_N
    if what == "sum":
        ids = read_table(finished.folder("append", "attribute") / "attributed.parquet", ATTRIBUTED)["sample_id"].to_numpy()
    with pytest.raises(NonFiniteAttributionError, match=rf"{what} of \d+ of {len(ids)} .*first sample_id {ids[0]} \(nan\)"):
        attribute.run(0, 1, Gradient(), TrueLabel(), Worst(), inputs=inputs, out=tmp_path, context=Context())


def test_every_sample_that_is_held_out_is_predicted_once(finished):
    table = read_table(finished.folder("append", "evaluate") / "predictions.parquet", PREDICTIONS)
    index = finished.prepared().index
    held_out = np.flatnonzero(index["split"] != "train")
    assert table["sample_id"].to_pylist() == held_out.tolist()
    assert table["label"].to_pylist() == index["label"][held_out].tolist()


def test_the_metrics_are_those_of_the_predictions(finished):
    table = read_table(finished.folder("append", "evaluate") / "predictions.parquet", PREDICTIONS).to_pandas()
    metrics = finished.metrics("append", "evaluate")
    assert {name.split(".")[0] for name in metrics} == {"validation", "test"}
    for split, rows in table.groupby("split"):
        assert metrics[f"{split}.accuracy"] == (rows["label"] == rows["prediction"]).mean()
        assert metrics[f"{split}.nll"] == pytest.approx(rows["loss"].mean(), rel=1e-5)
        assert metrics[f"{split}.num_samples"] == len(rows)


def quality_of(finished: Finished, arm: str) -> pd.DataFrame:
    return read_table(finished.folder(arm, "evaluate") / "quality.parquet", QUALITY).to_pandas()


def test_explanations_are_measured_on_the_same_samples_in_every_arm(finished):
    ids = {
        arm: quality_of(finished, arm).groupby(["split", "metric"])["sample_id"].apply(list) for arm in ("explained", "explained by chance")
    }
    for split, expected in (("validation", NUM_VALIDATION), ("test", NUM_EXPLAINED)):
        sample_ids = ids["explained"][split, "deletion_auc"]
        assert len(set(sample_ids)) == expected
        assert (finished.prepared().index["split"][sample_ids] == split).all()
        assert sample_ids == ids["explained by chance"][split, "deletion_auc"] == ids["explained"][split, "removal_curve"]


def test_the_metrics_of_explanations_are_the_means_of_the_samples_that_have_a_value(finished):
    metrics = finished.metrics("explained", "evaluate")
    for (split, metric), rows in quality_of(finished, "explained").groupby(["split", "metric"]):
        assert metrics[f"{split}.{metric}.num_nan"] == rows["value"].isna().sum()
        if metric == "completeness_error":  # The gradient promises no sum.
            assert rows["value"].isna().all()
            assert metrics[f"{split}.{metric}"] is None
        else:
            assert metrics[f"{split}.{metric}"] == pytest.approx(rows["value"].mean(), abs=1e-12)


def test_a_curve_starts_at_the_accuracy_and_its_mean_is_in_the_table(finished):
    folder, metrics = finished.folder("explained", "evaluate"), finished.metrics("explained", "evaluate")
    curves = read_table(folder / "curves.parquet", CURVES).to_pandas()
    assert set(curves["metric"]) == {"removal_curve"}
    predictions = read_table(folder / "predictions.parquet", PREDICTIONS).to_pandas().set_index("sample_id")
    for split, curve in curves.groupby("split"):
        assert curve["share"].tolist() == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
        chosen = predictions.loc[quality_of(finished, "explained").query("split == @split and metric == 'removal_curve'")["sample_id"]]
        assert curve["value"].iloc[0] == pytest.approx((chosen["label"] == chosen["prediction"]).mean(), abs=1e-12)
        assert np.trapezoid(curve["value"], curve["share"]) / 0.9 == pytest.approx(metrics[f"{split}.removal_curve"], abs=1e-12)


def test_plain_evaluations_do_not_depend_on_what_explains_the_model(finished):
    base = RunConfig(data=MnistSmall(), augmentation=NoAugmentation())
    explained = base.model_copy(update={"evaluation": Evaluation(metrics=(Accuracy(), Sparseness()))})
    for run, same in ((base, True), (explained, False)):
        keys = {steps_of([run.model_copy(update={"attribution": method})]).last[0].key for method in (Gradient(), IntegratedGradients())}
        assert (len(keys) == 1) == same


def test_every_stage_ran_and_every_record_tells_its_settings_and_inputs(finished):
    assert {step.stage for step in finished.plan.steps} == {stage.name for stage in STAGES}
    for step in finished.plan.steps:
        record = finished.store.record(step.name)
        assert (record["settings"], record["inputs"], record["round"]) == (step.settings, step.inputs, step.round)
        assert finished.store.check(step.name) == []
