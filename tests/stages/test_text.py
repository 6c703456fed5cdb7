"""All stages on text: tokens go in, maps have a number a word, or one for each value of a word's vector."""

import numpy as np
import pytest
import torch

from pipeline.core.tables import ATTRIBUTED, PREDICTIONS, QUALITY, read_table
from pipeline.stages.artifacts import Prepared, read_array, read_facts, read_model, read_vocabulary
from tests.methods.datasets.test_news20 import write_messages
from tests.stages.runs import Finished, run_all

EXPERIMENT = """
experiment: text
base:
  data: {dataset: news20, num_tokens: 6, min_count: 1, folds: 4, vectors: tiny.txt}
  model: {model: text_cnn, lengths: [2, 3], maps: 32, dropout: 0.0}
  pretraining: {epochs: 40, batch_size: 20, optimizer: adamw, learning_rate: 0.02}
  selection: {rule: all}
  augmentation: {rule: none}
  evaluation: {metrics: [accuracy, deletion_auc, removal_curve, completeness_error]}
sweep:
  list:
    - {arm: plain, attribution: {method: integrated_gradients, num_steps: 8, baseline: {baseline: zero}}}
    - {arm: words, augmentation: {rule: same_compute}, retraining: {epochs: 1}, attribution: {method: occlusion, window: 1, stride: 1}}
    - {arm: values, augmentation: {rule: same_compute}, retraining: {epochs: 1}, token_maps: values,
       attribution: {method: integrated_gradients, num_steps: 8, baseline: {baseline: expected, num_samples: 4}}}
    - {arm: encoder, model: {model: text_transformer, layer_width: 8, num_heads: 2}, attribution: {method: gradient}}
"""


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Finished:
    folder = tmp_path_factory.mktemp("text")
    write_messages(folder, num=4)
    (folder / "glove").mkdir()
    rng = np.random.default_rng(0)
    vectors = "".join(f"word{group} {' '.join(map(str, rng.normal(size=10).round(3)))}\n" for group in range(20))
    (folder / "glove/tiny.txt").write_text(vectors)
    return run_all(folder, EXPERIMENT)


def test_prepare_keeps_the_words_and_their_vectors(texts):
    prepared = Prepared(texts.folder("plain", "prepare"))
    assert prepared.vocabulary[:2] == ("<padding>", "<unknown>")
    assert {"word0", "body3"} <= set(prepared.vocabulary)
    assert (prepared.facts.num_words, prepared.facts.vector_size) == (len(prepared.vocabulary), 10)
    x, label = prepared.samples("test").batch(np.array([0]), device="cpu")
    assert x.dtype == torch.int64
    assert [prepared.vocabulary[token] for token in x[0] if token] == ["word0", "body0"]
    assert label.tolist() == [0]


def test_a_network_begins_with_the_vectors_learns_the_groups_and_knows_its_words(texts):
    folder = texts.folder("plain", "pretrain")
    assert read_vocabulary(folder) == Prepared(texts.folder("plain", "prepare")).vocabulary
    assert read_facts(folder).num_words == len(read_vocabulary(folder))
    assert texts.metrics("plain", "evaluate")["test.accuracy"] > 0.9
    table = read_table(texts.folder("plain", "evaluate") / "predictions.parquet", PREDICTIONS)
    assert len(table) == 80 + 20


def test_maps_of_words_are_the_sums_over_their_vectors(texts):
    words = read_array(texts.folder("words", "attribute") / "attributions.npy")
    assert words.shape == (60, 6)
    values = read_array(texts.folder("values", "attribute") / "attributions.npy")
    assert values.shape == (60, 10, 6)
    table = read_table(texts.folder("values", "attribute") / "attributed.parquet", ATTRIBUTED).to_pandas()
    np.testing.assert_allclose(values.sum((1, 2)), table["sum"], rtol=0, atol=1e-4)
    # What the network goes by is the word that only one group has.
    prepared = Prepared(texts.folder("words", "prepare"))
    tokens = prepared.samples("train").stored(slice(None))
    strongest = [prepared.vocabulary[token] for token in np.take_along_axis(tokens, words.argmax(1)[:, None], 1)[:, 0]]
    assert np.mean([word.startswith("word") for word in strongest]) > 0.9


def test_an_integrated_gradient_of_words_sums_to_what_the_text_adds(texts):
    quality = read_table(texts.folder("plain", "evaluate") / "quality.parquet", QUALITY).to_pandas()
    errors = quality.loc[quality["metric"] == "completeness_error", "value"]
    assert len(errors) == 100
    assert errors.median() < 0.05
    model = read_model(texts.folder("plain", "pretrain"), device="cpu")
    assert model.embedding.weight.shape[1] == 10


SHORTCUT = """
experiment: shortcut
base:
  data:
    dataset: shortcut
    base: {dataset: news20, num_tokens: 6, min_count: 1, folds: 1}
    cue: {cue: token, place: first}
  model: {model: text_cnn, lengths: [2, 3], maps: 32, dropout: 0.0, width: 10}
  pretraining: {epochs: 40, batch_size: 20, optimizer: adamw, learning_rate: 0.02}
  target: {target: predicted}
  augmentation: {rule: none}
  attribution: {method: occlusion, window: 1, stride: 1}
  evaluation: {metrics: [accuracy, pointing_game]}
"""


def test_a_planted_word_is_learned_instead_of_the_text_and_found_by_maps_of_words(tmp_path):
    write_messages(tmp_path, num=4)
    found = run_all(tmp_path, SHORTCUT).metrics("base", "evaluate")
    assert found["test.accuracy"] < 0.2
    assert found["test.pointing_game"] > 0.9
    assert found["test_clean.pointing_game.num_nan"] == found["test_clean.num_explained"]
