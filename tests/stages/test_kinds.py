"""Augmentation of text and signals through all stages: what images go through, on words and on segments of leads.

N = samples, L = words, T = time steps, U = units
"""

import numpy as np
import pytest

from pipeline.core.tables import ATTRIBUTED, read_table
from pipeline.stages.artifacts import Made, read_array
from pipeline.stages.retrain import training_set
from tests.methods.datasets.ptbxl_files import write_data
from tests.methods.datasets.test_news20 import write_messages
from tests.stages.runs import Finished, run_all

pytestmark = pytest.mark.slow

ARMS = """
sweep:
  list:
    - {arm: none, augmentation: {rule: none}}
    - {arm: same compute, augmentation: {rule: same_compute}}
    - {arm: repeated, augmentation: {rule: repeat}}
    - {arm: top}
    - {arm: random, augmentation: {rule: replace_random}}
    - {arm: bottom, augmentation: {rule: replace_bottom}}
    - {arm: grafted, augmentation: {graft: true, mode: replace}}
    - {arm: two rounds, rounds: 2}
    - {arm: removed, selection: {rule: all, held_out_too: true}, target: {target: predicted}, evaluation: {replaced: true},
       augmentation: {mode: replace}, retraining: {start: scratch}}
"""
TEXT = f"""
experiment: words
base:
  data:
    dataset: shortcut
    base: {{dataset: news20, num_tokens: 9, min_count: 1, folds: 1}}
    cue: {{cue: token, place: random}}
  model: {{model: text_cnn, lengths: [2, 3], maps: 8, dropout: 0.0, width: 6}}
  pretraining: {{epochs: 2, batch_size: 20, learning_rate: 0.02}}
  retraining: {{epochs: 1, batch_size: 20}}
  attribution: {{method: occlusion, window: 1, stride: 1}}
  selection: {{rule: worst, fraction: 0.5}}
  augmentation: {{rule: replace_top, value: unknown, fraction: 0.3, mode: append}}
{ARMS}"""
SIGNALS = f"""
experiment: segments
base:
  data: {{dataset: shortcut, base: {{dataset: ptbxl, labels: superdiagnostic}}, cue: {{cue: spike}}}}
  model: {{model: mlp, hidden: []}}
  pretraining: {{epochs: 2, batch_size: 16}}
  retraining: {{epochs: 1, batch_size: 16}}
  attribution: {{method: gradient}}
  target: {{target: predicted}}
  selection: {{rule: worst, fraction: 0.5}}
  augmentation: {{rule: replace_top, value: linear, unit_size: 50, channels: apart, fraction: 0.05, mode: append}}
  evaluation: {{metrics: [macro_auc]}}
{ARMS}"""
NUM_SEGMENTS, TAKEN_SEGMENTS = 12 * 1000 // 50, 12


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Finished:
    folder = write_messages(tmp_path_factory.mktemp("texts"), num=2)
    for group in range(20):
        longer = f"a: b\n\nword{group} body0 body1 word{group} body0 body1"
        (folder / f"20news-bydate-train/group.{group:02d}/longer").write_text(longer)
    return run_all(folder, TEXT)


@pytest.fixture(scope="module")
def signals(tmp_path_factory) -> Finished:
    folder = tmp_path_factory.mktemp("signals")
    codes = [{f"D{number % 12:02}": 100.0, f"D{number % 5:02}": 50.0} for number in range(40)]
    write_data(folder, codes, folds=[1 + number % 10 for number in range(40)])
    return run_all(folder, SIGNALS)


@pytest.fixture(params=["texts", "signals"])
def finished(request) -> Finished:
    return request.getfixturevalue(request.param)


def sources(finished: Finished, arm: str) -> np.ndarray:
    """What each made sample was before."""
    return read_array(finished.prepared().folder / "samples.npy")[finished.made(arm)[0]["source_sample_id"]]


def units(of_value: np.ndarray) -> np.ndarray:
    """(N, U) whether anything in a unit is so: words, or segments of leads."""
    return of_value if of_value.ndim == 2 else of_value.reshape(len(of_value), NUM_SEGMENTS, 50).any(axis=2)


def highest(finished: Finished, arm: str) -> np.ndarray:
    """(N, U) whether a unit is one of those with the highest attribution that are to be replaced."""
    phi, plain = read_array(finished.folder(arm, "attribute") / "attributions.npy"), sources(finished, arm)
    if phi.ndim == 2:
        score, number = np.where(plain == 0, -np.inf, phi), np.maximum(1, np.rint(0.3 * (plain != 0).sum(1)))
    else:
        score, number = phi.reshape(len(phi), NUM_SEGMENTS, 50).mean(axis=2), np.full(len(phi), TAKEN_SEGMENTS)
    rank = np.argsort(np.argsort(-score, axis=1, kind="stable"), axis=1)
    return rank < number[:, None]


def test_exactly_the_units_with_the_highest_attribution_change(finished):
    columns, made = finished.made("top")
    changed = units(made != sources(finished, "top"))
    np.testing.assert_array_equal(changed, highest(finished, "top"))
    np.testing.assert_array_equal(columns["num_changed"], changed.sum(1))
    assert made.dtype == sources(finished, "top").dtype


def test_words_become_the_unknown_one_and_padding_stays(texts):
    _, made = texts.made("top")
    plain = sources(texts, "top")
    assert set(made[made != plain]) == {1}
    assert np.array_equal(made == 0, plain == 0)
    assert len(np.unique((plain != 0).sum(1))) > 1


def test_every_rule_changes_as_many_units_of_each_sample(finished):
    changed = {arm: finished.made(arm)[0]["num_changed"].tolist() for arm in ("top", "random", "bottom")}
    assert changed["top"] == changed["random"] == changed["bottom"]
    masks = {arm: units(finished.made(arm)[1] != sources(finished, arm)) for arm in changed}
    assert not np.array_equal(masks["top"], masks["random"])
    assert not np.array_equal(masks["top"], masks["bottom"])
    assert set(finished.made("repeated")[0]["num_changed"]) == {0}


def test_a_grafted_sample_has_what_was_taken_from_another_in_its_place_beside_its_own_truth(finished):
    columns, made = finished.made("grafted")
    plain, taken = sources(finished, "grafted"), highest(finished, "grafted")
    alone = finished.made("top")[1]
    row_of = {source: row for row, source in enumerate(columns["source_sample_id"])}
    donors = [row_of[donor] for donor in columns["donor_sample_id"]]
    assert all(donor != row for row, donor in enumerate(donors))
    from_donor = taken[donors] if plain.ndim == 2 else np.repeat(taken[donors], 50, axis=1).reshape(plain.shape)
    np.testing.assert_array_equal(made, np.where(from_donor, plain[donors], alone))


def test_made_samples_are_trained_on_with_the_truth_of_their_sources(finished):
    prepared = finished.prepared()
    train = prepared.samples("train")
    truth_of = dict(zip(train.sample_ids_N.tolist(), train.truth.tolist(), strict=True))
    appended, _, num_made = training_set(prepared, finished.folder("top", "augment"))
    assert len(appended) == len(train) + num_made
    assert num_made == len(finished.made("top")[1]) > 0
    np.testing.assert_array_equal(appended.stored(slice(len(train), None)), finished.made("top")[1])
    replaced, _, _ = training_set(prepared, finished.folder("grafted", "augment"))
    assert replaced.sample_ids_N.tolist() == train.sample_ids_N.tolist()
    for data in (appended, replaced):
        assert data.truth.tolist() == [truth_of[sample_id] for sample_id in data.sample_ids_N.tolist()]
        assert data.task == train.task
    position = np.flatnonzero(np.isin(replaced.sample_ids_N, finished.made("grafted")[0]["source_sample_id"]))
    np.testing.assert_array_equal(replaced.stored(position), finished.made("grafted")[1])


def test_what_is_removed_from_held_out_samples_is_measured_with_their_own_truth(finished):
    prepared, (_, made) = finished.prepared("removed"), finished.made("removed")
    test = prepared.samples("test")
    seen = Made(finished.folder("removed", "augment")).in_place_of(test)
    np.testing.assert_array_equal(seen.stored(slice(None)), made[test.sample_ids_N])
    np.testing.assert_array_equal(seen.truth, test.truth)
    assert finished.metrics("removed", "evaluate")["test.num_samples"] == len(test)


def test_a_second_round_leaves_alone_what_the_first_one_changed(finished):
    chosen = [
        read_table(finished.folder("two rounds", "attribute", number) / "attributed.parquet", ATTRIBUTED)["sample_id"].to_numpy()
        for number in (1, 2)
    ]
    first, second = (Made(finished.folder("two rounds", "augment", number)) for number in (1, 2))
    plain = read_array(finished.prepared().folder / "samples.npy")
    both = np.intersect1d(*chosen)
    assert len(both)
    one, two = (made.samples[np.searchsorted(made.sources, both)] for made in (first, second))
    changed_once, changed_twice = units(one != plain[both]), units(two != plain[both])
    assert (changed_twice & changed_once).sum() == changed_once.sum()
    np.testing.assert_array_equal(changed_twice.sum(1), np.minimum(2 * changed_once.sum(1), (units(plain[both] != 0)).sum(1)))
    np.testing.assert_array_equal(two[one != plain[both]], one[one != plain[both]])


def test_the_same_compute_control_takes_as_many_steps(finished):
    steps = {arm: finished.metrics(arm, "retrain")["num_steps"] for arm in ("same compute", "repeated", "top", "random", "bottom")}
    assert len(set(steps.values())) == 1
