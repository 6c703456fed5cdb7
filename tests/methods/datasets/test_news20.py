"""20 Newsgroups out of folders as they are published."""

import importlib
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.methods.datasets import DataFileError, MissingDataError, News20
from pipeline.methods.datasets.news20 import without_footer, without_headers, without_quotes

MESSAGE = """From: a@b.c (A)
Subject: Re: group{group}

In article <1@x> b writes:
> old words

word{group} body{number}

--
signature{group}
"""


def write_messages(folder, *, groups=20, num=3):
    for split in ("train", "test"):
        for group in range(groups):
            path = folder / f"20news-bydate-{split}" / f"group.{group:02d}"
            path.mkdir(parents=True)
            for number in range(num):
                (path / f"{group}{number}{split}").write_bytes(MESSAGE.format(group=group, number=number).encode("latin-1"))
    return folder


@pytest.fixture
def root(tmp_path):
    return write_messages(tmp_path)


def words(samples, row):
    return [samples.vocabulary[token] for token in samples.x_NCHW[row] if token]


def test_messages_are_read_group_by_group_without_what_tells_the_group(root):
    samples = News20(num_tokens=8, min_count=1).load(root)
    assert samples.x_NCHW.shape == (120, 8)
    assert np.bincount(samples.labels_N).tolist() == [6] * 20
    assert samples.splits_N.tolist() == ["train"] * 60 + ["test"] * 60
    assert samples.output_names[3] == "group.03"
    assert samples.sources_N[0] == "20news-bydate-train/group.00/00train"
    assert words(samples, 0) == ["word0", "body0"]
    kept = News20(num_tokens=50, min_count=1, keep=("headers", "quotes", "footers")).load(root)
    assert {"group0", "signature0", "old", "article"} <= set(words(kept, 0))


def test_the_vocabulary_is_that_of_the_training_messages(root):
    (root / "20news-bydate-test/group.00/00test").write_text("x: y\n\nnever seen\n\nword0")
    samples = News20(num_tokens=4, min_count=1).load(root)
    assert words(samples, 60) == ["<unknown>", "<unknown>"]
    assert "seen" not in samples.vocabulary
    assert len(News20(num_tokens=4, max_words=5).load(root).vocabulary) == 7


def test_parts_of_the_splits_keep_the_groups_shares(root):
    samples = News20(num_train=40, num_test=20).load(root)
    assert np.bincount(samples.labels_N[:40]).tolist() == [2] * 20
    assert np.bincount(samples.labels_N[40:]).tolist() == [1] * 20


def test_words_get_the_vectors_of_a_file(root):
    (root / "glove").mkdir()
    (root / "glove/tiny.txt").write_text("word0 1 2\nnobody 3 4\n")
    samples = News20(vectors="tiny.txt", min_count=1).load(root)
    assert samples.vectors_VE.shape == (len(samples.vocabulary), 2)
    assert samples.vectors_VE[samples.vocabulary.index("word0")].tolist() == [1, 2]
    assert (samples.vectors_VE != 0).sum() == 2


def test_what_is_missing_or_damaged_is_named(root, tmp_path):
    with pytest.raises(MissingDataError, match=r"news20 needs .*20news-bydate-train, .*20news-bydate-test; put them there"):
        News20().load(tmp_path / "nowhere")
    with pytest.raises(MissingDataError, match=r"news20 needs .*glove/none\.txt"):
        News20(vectors="none.txt").load(root)
    (root / "20news-bydate-train/group.00/bad").write_bytes(b"a: b\n\nna\xefve")
    assert len(News20().load(root)) == 121
    with pytest.raises(DataFileError, match=r"group\.00/bad is not utf-8 .*; set data\.encoding to latin-1"):
        News20(encoding="utf-8").load(root)
    (root / "20news-bydate-test/group.99").mkdir()
    with pytest.raises(DataFileError, match=r"its groups are not those of the training part: group\.99; fetch it again"):
        News20().load(root)
    (root / "20news-bydate-train/group.98").mkdir()
    with pytest.raises(DataFileError, match=r"wanted 20 groups, got 21; fetch it again"):
        News20().load(root)


TEXTS = st.text(alphabet="ab>|-: \n", max_size=60)


@settings(deadline=None)  # The first import of scikit-learn takes a second.
@given(TEXTS | st.sampled_from([MESSAGE, "In article <1>\nx wrote:\n> a\n\n--\nb", "a\n\n", "--\na", "a"]))
def test_messages_are_cut_as_scikit_learn_cuts_them(text):
    reference = importlib.import_module("sklearn.datasets._twenty_newsgroups")
    assert without_headers(text) == reference.strip_newsgroup_header(text)
    assert without_footer(text) == reference.strip_newsgroup_footer(text)
    assert without_quotes(text) == reference.strip_newsgroup_quoting(text)


def test_the_real_messages_are_read():
    folder = os.environ.get("ATTRAIN_DATA")
    if not folder or News20(vectors="glove.6B.50d.txt").missing_files(Path(folder)):
        pytest.skip("ATTRAIN_DATA is not set, or lacks 20news-bydate-train or glove/glove.6B.50d.txt")
    samples = News20(vectors="glove.6B.50d.txt").load(Path(folder))
    assert set(np.bincount(samples.labels_N[samples.splits_N == "train"])) == {200}
    known = (samples.vectors_VE != 0).any(1)[samples.x_NCHW]
    assert known.sum() / (samples.x_NCHW > 0).sum() > 0.75
    medicine = samples.x_NCHW[samples.labels_N == samples.output_names.index("sci.med")]
    assert (medicine == samples.vocabulary.index("disease")).sum() > 20
