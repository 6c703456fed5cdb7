"""20 Newsgroups, by-date version (qwone.com/~jason/20Newsgroups): one file a message, in a folder a group.

N = messages, L = tokens
"""

import re
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from pipeline.methods.datasets.samples import DataFileError, MissingDataError, NormalisedBy, Report, Samples, no_report
from pipeline.methods.datasets.sources import NEWS_20_FILES, Source
from pipeline.methods.datasets.splits import SplitSettings, stratified_subset
from pipeline.methods.tasks import Kind
from pipeline.methods.text import encoded, read_vectors, vocabulary_of, words_of

FOLDERS = {"train": "20news-bydate-train", "test": "20news-bydate-test"}
QUOTE = re.compile(r"(writes in|writes:|wrote:|says:|said:|^In article|^Quoted from|^\||^>)")
"""A line that is quoted or announces a quotation, as scikit-learn has it."""


class News20(SplitSettings):
    """About 18,800 messages of 20 newsgroups, the later ones for the test; from 20news-bydate-train and -test.

    Headers tell the group almost by themselves, and so do signatures and quotations: what is left of a message without them is the task.
    """

    kind: ClassVar[Kind] = "tokens"
    normalised_by: ClassVar[NormalisedBy] = "nothing"
    sources: ClassVar[tuple[Source, ...]] = NEWS_20_FILES
    test_splits: ClassVar[tuple[str, ...]] = ("test",)
    num_outputs: ClassVar[int] = 20
    dataset: Literal["news20"] = "news20"
    keep: tuple[Literal["headers", "footers", "quotes"], ...] = ()
    """Parts of a message that are left in."""
    num_tokens: int = Field(default=256, ge=1)
    """Words of a message that are read, the first ones; shorter messages are padded."""
    max_words: int = Field(default=20_000, ge=1)
    """Words that the vocabulary holds, the most frequent ones of the training messages."""
    min_count: int = Field(default=2, ge=1)
    """How often a word must be there to be in it."""
    encoding: Literal["latin-1", "utf-8"] = "latin-1"
    """Of the files, which are from before UTF-8; utf-8 refuses those that are none."""
    vectors: str | None = None
    """File of word vectors under ATTRAIN_DATA/glove, such as glove.6B.50d.txt, for models to begin with; None gives none."""

    def missing_files(self, root: Path) -> tuple[Path, ...]:
        """Folders, and the file of vectors, that are not there."""
        folders = [folder for name in FOLDERS.values() if not (folder := _folder(root, name)).is_dir()]
        return (*folders, *([self._vector_path(root)] if self.vectors and not self._vector_path(root).is_file() else []))

    def load(self, root: Path, *, report: Report = no_report) -> Samples:
        """See `DatasetSettings.load`."""
        if missing := self.missing_files(root):
            raise MissingDataError(f"news20 needs {', '.join(map(str, missing))}; put them there, or point ATTRAIN_DATA to their folder")
        groups = sorted(path.name for path in _folder(root, FOLDERS["train"]).iterdir() if path.is_dir())
        if len(groups) != self.num_outputs:
            raise DataFileError(f"{_folder(root, FOLDERS['train'])}: wanted {self.num_outputs} groups, got {len(groups)}; fetch it again")
        paths, labels, splits = [], [], []
        for split, num_kept in (("train", self.num_train), ("test", self.num_test)):
            found, labels_N = _messages(_folder(root, FOLDERS[split]), groups)
            rows = stratified_subset(
                labels_N, len(labels_N) if num_kept is None else num_kept, seed=self.split_seed, purpose=f"{split} subset"
            )
            paths += [found[row] for row in rows]
            labels.append(labels_N[rows])
            splits.append(np.full(len(rows), split))
        splits_N = np.concatenate(splits)
        texts = []
        for path in paths:
            texts.append(words_of(self._text(path)))
            report(len(texts), len(paths))
        in_train = (words for words, split in zip(texts, splits_N, strict=True) if split == "train")
        vocabulary = vocabulary_of(in_train, max_words=self.max_words, min_count=self.min_count)
        return Samples(
            x_NCHW=encoded(texts, vocabulary, num_tokens=self.num_tokens),
            labels_N=np.concatenate(labels),
            splits_N=splits_N,
            sources_N=[f"{path.parent.parent.name}/{path.parent.name}/{path.name}" for path in paths],
            output_names=tuple(groups),
            vocabulary=vocabulary,
            vectors_VE=read_vectors(self._vector_path(root), vocabulary)[0] if self.vectors else None,
        )

    def _vector_path(self, root: Path) -> Path:
        return root / "glove" / str(self.vectors)

    def _text(self, path: Path) -> str:
        try:
            text = path.read_bytes().decode(self.encoding)
        except UnicodeDecodeError as error:
            raise DataFileError(f"{path} is not {self.encoding} ({error}); set data.encoding to latin-1") from error
        text = text.replace("\r\n", "\n")
        for part, without in (("headers", without_headers), ("footers", without_footer), ("quotes", without_quotes)):
            text = text if part in self.keep else without(text)
        return text


def _folder(root: Path, name: str) -> Path:
    """Where the archive was unpacked: in the data folder itself, or in one called 20news."""
    return next((folder for folder in (root / name, root / "20news" / name) if folder.is_dir()), root / name)


def _messages(folder: Path, groups: list[str]) -> tuple[list[Path], np.ndarray]:
    """All messages, group by group in the order of their names, and their groups' positions."""
    if others := sorted({path.name for path in folder.iterdir() if path.is_dir()} ^ set(groups)):
        raise DataFileError(f"{folder}: its groups are not those of the training part: {', '.join(others)}; fetch it again")
    found = [(path, label) for label, group in enumerate(groups) for path in sorted((folder / group).iterdir()) if path.is_file()]
    if not found:
        raise DataFileError(f"{folder} holds no messages; fetch it again")
    return [path for path, _ in found], np.array([label for _, label in found], dtype=np.int32)


def without_headers(message: str) -> str:
    """What follows the first empty line."""
    return message.partition("\n\n")[2]


def without_footer(text: str) -> str:
    """What precedes the last line that is empty or of hyphens only, as that is where signatures begin."""
    lines = text.strip().split("\n")
    ends = [number for number, line in enumerate(lines) if not line.strip().strip("-")]
    return "\n".join(lines[: ends[-1]]) if ends and ends[-1] > 0 else text


def without_quotes(text: str) -> str:
    """The lines that are not quoted and announce no quotation."""
    return "\n".join(line for line in text.split("\n") if not QUOTE.search(line))
