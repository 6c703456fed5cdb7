"""Texts become numbers of words, and words get the vectors that a file has of them."""

import numpy as np
import pytest

from pipeline.methods.text import PADDING, UNKNOWN, VectorFileError, encoded, read_vectors, vocabulary_of, words_of


def test_words_are_in_small_letters_and_signs_stand_alone():
    assert words_of("Don't panic, it's \u00c9t\u00e9 -- 42!") == ["don't", "panic", ",", "it's", "\u00e9t\u00e9", "-", "-", "42", "!"]
    assert words_of(" \n\t") == []


def test_the_vocabulary_has_the_most_frequent_words_and_breaks_ties_by_the_alphabet():
    texts = [["b", "a", "c"], ["c", "b", "d"], ["c", "e", "e"]]
    assert vocabulary_of(texts, max_words=3)[2:] == ("c", "b", "e")
    assert vocabulary_of(texts, max_words=9, min_count=2)[2:] == ("c", "b", "e")
    assert vocabulary_of(texts, max_words=9)[2:] == ("c", "b", "e", "a", "d")
    assert vocabulary_of([], max_words=3) == ("<padding>", "<unknown>")


def test_texts_are_cut_padded_and_their_strange_words_marked():
    vocabulary = vocabulary_of([["a", "b"]], max_words=9)
    tokens = encoded([["b", "a", "b", "a"], ["z"], []], vocabulary, num_tokens=3)
    assert tokens.tolist() == [[3, 2, 3], [UNKNOWN, PADDING, PADDING], [PADDING] * 3]
    assert tokens.dtype == np.int32


def test_vectors_of_any_dimension_are_read_for_the_words_of_the_vocabulary(tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_text("the 0.5 -1 2\n. . . 1 2 3\nfox 1e-3 0 4\nfox 9 9 9\n", encoding="utf-8")
    vectors, num_found = read_vectors(path, ("<padding>", "<unknown>", "fox", "hen", "the"))
    assert num_found == 2
    # Of a word that is there twice the first one counts.
    np.testing.assert_array_equal(vectors, np.array([[0, 0, 0], [0, 0, 0], [1e-3, 0, 4], [0, 0, 0], [0.5, -1, 2]], dtype=np.float32))


@pytest.mark.parametrize("line", ["fox 1 2", "fox 1 x 3", "fox", "fox 1 nan 3"])
def test_a_line_that_is_cut_short_or_no_numbers_is_named(tmp_path, line):
    path = tmp_path / "vectors.txt"
    path.write_text(f"the 1 2 3\n{line}\n", encoding="utf-8")
    with pytest.raises(VectorFileError, match=r"vectors\.txt: line 2: wanted a word and 3 numbers, got 'fox"):
        read_vectors(path, ("<padding>", "<unknown>", "fox"))


def test_an_empty_file_of_vectors_is_refused(tmp_path):
    (tmp_path / "vectors.txt").write_text("")
    with pytest.raises(VectorFileError, match="wanted a word and its numbers a line, got nothing"):
        read_vectors(tmp_path / "vectors.txt", ("<padding>", "<unknown>"))
