"""Text as numbers: words, a vocabulary of those of the training texts, and their vectors. numpy only.

N = texts, L = tokens of one, V = words of the vocabulary, E = values of a word's vector
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import UserError

PADDING, UNKNOWN = 0, 1
"""Tokens that stand for no word: after a text's end, and for words that the vocabulary lacks."""
SPECIAL = ("<padding>", "<unknown>")
WORD = re.compile(r"\w+(?:['\u2019]\w+)*|[^\w\s]")
"""A word, with what an apostrophe joins to it; or a single sign."""


class VectorFileError(UserError, ValueError):
    """A file of word vectors is not what its name says."""


def words_of(text: str) -> list[str]:
    """The words and signs of a text, in small letters."""
    return WORD.findall(text.lower())


def vocabulary_of(texts: Iterable[Sequence[str]], *, max_words: int, min_count: int = 1) -> tuple[str, ...]:
    """The special tokens, then the most frequent words, of equally frequent ones the first in the alphabet.

    Args:
        texts: words of each text.
        max_words: words kept, beside the special tokens.
        min_count: how often a word must be there.
    """
    counts = Counter(word for words in texts for word in words)
    kept = sorted((word for word, count in counts.items() if count >= min_count), key=lambda word: (-counts[word], word))
    return (*SPECIAL, *kept[:max_words])


def encoded(texts: Iterable[Sequence[str]], vocabulary: Sequence[str], *, num_tokens: int) -> NDArray[np.int32]:
    """(N, L) the first `num_tokens` words of each text as positions in the vocabulary, padded."""
    position = {word: number for number, word in enumerate(vocabulary)}
    rows = [[position.get(word, UNKNOWN) for word in words[:num_tokens]] for words in texts]
    tokens_NL = np.full((len(rows), num_tokens), PADDING, dtype=np.int32)
    for row_L, row in zip(tokens_NL, rows, strict=True):
        row_L[: len(row)] = row
    return tokens_NL


def _vector(text: str, *, size: int) -> NDArray[np.float32] | None:
    """The last numbers of a line: in glove.840B there are words with spaces in them. None where they are no numbers."""
    try:
        vector_E = np.array(text.split()[-size:], dtype=np.float32)
    except ValueError:
        return None
    return vector_E if len(vector_E) == size and np.isfinite(vector_E).all() else None


def read_vectors(path: Path, vocabulary: Sequence[str]) -> tuple[NDArray[np.float32], int]:
    """(V, E) vectors of the vocabulary's words, and how many of them the file has; zeros for padding and words that it lacks.

    Args:
        path: a text file as GloVe's (Pennington et al. 2014): a word a line, then its E values, all by spaces.
        vocabulary: words, special tokens among them.

    Raises:
        VectorFileError: the file is cut short, or a line is none of a word and E numbers; names the line.
    """
    position = {word: number for number, word in enumerate(vocabulary)}
    found: dict[int, NDArray[np.float32]] = {}
    size = None
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            word, _, rest = line.rstrip("\n").partition(" ")
            size = size or len(rest.split())
            is_whole = bool(rest) and rest.count(" ") >= size - 1
            if is_whole and word not in position:
                continue
            vector_E = _vector(rest, size=size)
            if not is_whole or vector_E is None:
                raise VectorFileError(f"{path}: line {number}: wanted a word and {size} numbers, got {line[:60]!r}; fetch it again")
            found.setdefault(position[word], vector_E)
    if not size:
        raise VectorFileError(f"{path}: wanted a word and its numbers a line, got nothing; fetch it again")
    vectors_VE = np.zeros((len(vocabulary), size), dtype=np.float32)
    for row, vector_E in found.items():
        vectors_VE[row] = vector_E
    return vectors_VE, len(found)
