"""`attrain explain`: maps of what decided a trained model about inputs of a user's own.

C = channels, H, W = pixels, F = features, K = outputs
"""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import NDArray

from pipeline.core.errors import UserError
from pipeline.core.randomness import SampleStreams, generator
from pipeline.core.settings import SettingsError, parse
from pipeline.core.store import Store
from pipeline.methods.attribution import Attribution, Attributor, Background, Score, TargetRule, attribute
from pipeline.methods.inference import embedded, predicted
from pipeline.methods.lazy import torch
from pipeline.methods.text import PADDING, UNKNOWN, encoded, words_of
from pipeline.methods.training.data import SampleSet
from pipeline.stages.artifacts import DatasetFacts, Prepared, read_facts, read_model, read_vocabulary
from pipeline.stages.explaining import input_range

if TYPE_CHECKING:
    from torch import Tensor, nn


class InputError(UserError, ValueError):
    """A file is no image or array that the model takes, or a folder holds no model."""


@dataclass(frozen=True)
class Checkpoint:
    """A trained model with what is needed to feed it."""

    folder: Path
    """Of a pretrain or retrain artifact."""

    @classmethod
    def find(cls, given: str, store: Store) -> "Checkpoint":
        """A folder, or the name of a step such as 'retrain/92ae51c07d3b4f68'.

        Raises:
            InputError: neither holds a model; says where models lie.
        """
        for folder in (Path(given), store.root / given):
            if (folder / "model.json").is_file():
                return cls(folder)
        raise InputError(
            f"{given} holds no model (model.json, weights.safetensors); wanted the folder or name of a pretrain or retrain artifact, "
            f"such as retrain/92ae51c07d3b4f68 in {store.root}: `attrain logs EXPERIMENT-RUN` names those of a run"
        )

    @cached_property
    def model(self) -> "nn.Module":
        """In eval mode, on the CPU."""
        return read_model(self.folder, device="cpu")

    @cached_property
    def facts(self) -> DatasetFacts:
        """Of the data that it was trained on."""
        return read_facts(self.folder)

    def training_samples(self, num: int) -> "Tensor":
        """(num, C, H, W) of the data that it was trained on, out of its store.

        Raises:
            InputError: the artifact with the data is not there.
        """
        try:
            record = json.loads((self.folder / "record.json").read_text())
            prepared = Prepared(self.folder.parents[1] / "prepare" / record["inputs"]["prepare"])
            train = prepared.samples("train")
        except (OSError, KeyError, ValueError) as error:
            raise InputError(f"the method needs training samples, and those of {self.folder} are not beside it ({error})") from error
        return embedded(self.model, train.batch(generator(0, "background").permutation(len(train))[:num], device="cpu")[0])

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """The words that it knows; empty where it takes no text."""
        return read_vocabulary(self.folder)

    def read(self, source: Path) -> NDArray[Any]:
        """The sample in a file, as it would be stored: see `tasks.FORMS`.

        Of an image file the pixels, made grey or coloured and scaled as the model wants them; of a text file its words; or a .npy file.

        Raises:
            InputError: the file holds no such thing.
        """
        is_image = len(self.facts.input_shape) == 3
        if self.vocabulary:
            return self._read_text(source)
        if source.suffix == ".npy" or not is_image:
            return _read_array(source, shape=self.facts.input_shape, dtype=np.dtype(np.uint8 if is_image else np.float32))
        from PIL import Image, UnidentifiedImageError

        channels, height, width = self.facts.input_shape
        try:
            with Image.open(source) as image:
                scaled = image.convert("L" if channels == 1 else "RGB").resize((width, height), Image.Resampling.BILINEAR)
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise InputError(f"{source} cannot be read as an image ({error}); wanted a picture, or a .npy file of uint8") from error
        return np.asarray(scaled, dtype=np.uint8).reshape(height, width, channels).transpose(2, 0, 1)

    def _read_text(self, source: Path) -> NDArray[np.int32]:
        try:
            text = source.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{source} cannot be read as text ({error}); wanted a file in UTF-8") from error
        tokens_L = encoded([words_of(text)], self.vocabulary, num_tokens=self.facts.input_shape[0])[0]
        if not (tokens_L > UNKNOWN).any():
            raise InputError(
                f"{source} has no word that the model knows ({len(self.vocabulary):,} words, from those of its training texts)"
            )
        return tokens_L

    def sample(self, stored_CHW: NDArray[Any]) -> SampleSet:
        """The one sample, to be fed to the model."""
        values = None if self.facts.task == "classes" else np.zeros((1, self.facts.num_outputs), dtype=np.float32)
        return SampleSet.of(stored_CHW[None], labels=[0], task=self.facts.task, values=values, **self.facts.scales)

    def background(self, sample: SampleSet) -> Background:
        """What a method may know: range, training samples, and one stream for the one sample."""
        lowest_C, highest_C = input_range(self.model, sample, device="cpu")
        return Background(
            streams=SampleStreams(sample_ids_B=sample.sample_ids_N, seed=0, purpose="attribution"),
            lowest_CHW=lowest_C,
            highest_CHW=highest_C,
            samples=self.training_samples,
        )

    def picture(self, stored_CHW: NDArray[Any], phi_CHW: NDArray[np.floating], *, title: str) -> bytes:
        """The map over what it is of, as PNG."""
        from results.maps import bars, overlay, traces, words

        if self.vocabulary:
            shown = [self.vocabulary[token] for token in stored_CHW if token != PADDING]
            figure = words(shown, phi_CHW.sum(0)[: len(shown)], title=title)
        else:
            draw = {1: partial(bars, names=self.facts.feature_names), 2: traces, 3: overlay}[stored_CHW.ndim]
            figure = draw(stored_CHW, phi_CHW, title=title)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150)
        return buffer.getvalue()


def _read_array(source: Path, *, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    try:
        array = np.load(source, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{source} cannot be read as an array ({error}); wanted a .npy file of {dtype} {shape}") from error
    if array.shape != shape or array.dtype != dtype:
        raise InputError(f"{source}: wanted {dtype} {shape}, got {array.dtype} {array.shape}")
    return array


def parse_choice(kind: Any, given: str, *, tag: str) -> Any:
    """A choice by its name alone, or as YAML with settings: `saliency`, or `{method: smooth_grad, noise_level: 0.1}`.

    Raises:
        SettingsError: it is neither; lists the names.
    """
    try:
        value = yaml.safe_load(given)
    except yaml.YAMLError as error:
        raise SettingsError(f"{tag}: wanted a name or a YAML mapping, got {given!r} ({error})") from error
    return parse(kind, value if isinstance(value, dict) else {tag: value}, where=tag)


def parse_methods(given: Sequence[str]) -> dict[str, Attributor]:
    """{name of its files: method}; a method that is named again, with other settings, gets a number.

    Raises:
        SettingsError: there is no such method, or it has no such setting.
    """
    methods: dict[str, Attributor] = {}
    for text in given:
        method = parse_choice(Attribution, text, tag="method")
        count = sum(name.partition("-")[0] == method.method for name in methods)
        methods[f"{method.method}-{count + 1}" if count else method.method] = method
    return methods


def refuse_equal_names(sources: Sequence[Path]) -> None:
    """Each input's files are called after it.

    Raises:
        InputError: two inputs would write the same files.
    """
    stems = [source.stem for source in sources]
    if twice := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise InputError(
            f"two inputs are called {twice[0]!r}, and so would be their pictures; explain them one by one, each with its own --out"
        )


def explain(checkpoint: Checkpoint, source: Path, *, methods: Mapping[str, Attributor], target: TargetRule, out: Path) -> Iterator[str]:
    """Write a picture and the numbers of every method's map; yield lines that say what was found.

    Files: OUT/<source>.<method>.png and OUT/<source>.npz with the sample, the model's outputs, and one array (C, H, W) a method;
    of text the sample is its tokens, an array (E, L) of the values of their vectors, and `words` are the tokens' words.

    Raises:
        InputError: the input cannot be read.
        ValueError: the model has no such class, or the method cannot explain such a model.
    """
    stored_CHW = checkpoint.read(source)
    sample = checkpoint.sample(stored_CHW)
    x_1CHW = embedded(checkpoint.model, sample.batch(slice(None), device="cpu")[0])
    with torch.no_grad():
        outputs_K = checkpoint.model(x_1CHW)[0]
    yield f"{source.name}: {_said(outputs_K, checkpoint.facts)}"
    # What the truth is nobody says: the prediction stands for it.
    truth = (outputs_K > 0).float() if checkpoint.facts.task == "labels" else outputs_K.argmax()
    score = target(checkpoint.model, x_1CHW, truth[None])
    arrays, files = {"sample": stored_CHW, "outputs": outputs_K.numpy()}, {}
    if checkpoint.vocabulary:
        arrays["words"] = np.array([checkpoint.vocabulary[token] for token in stored_CHW])
    for name, method in methods.items():
        found = attribute(method, checkpoint.model, x_1CHW, score, background=checkpoint.background(sample))
        arrays[name] = found.phi_BCHW[0].numpy()
        title = f"{source.name}: {name}, {_titled(score, checkpoint.facts)}"
        files[f"{source.stem}.{name}.png"] = checkpoint.picture(stored_CHW, arrays[name], title=title)
        gap = "" if found.completeness_gap_B is None else f" ({float(found.completeness_gap_B[0]):+.2g} off)"
        yield f"  {name}: sum {float(found.sum_B[0]):+.3g}{gap}; {out / f'{source.stem}.{name}.png'}"
    _write(out, files, arrays, stem=source.stem)
    yield f"  as arrays: {out / f'{source.stem}.npz'}"


def _said(outputs_K: "Tensor", facts: DatasetFacts) -> str:
    """The most probable classes or labels, or the first values."""
    if facts.task == "values":
        return ", ".join(f"{name} {value:.4g}" for name, value in zip(facts.output_names[:3], outputs_K.tolist(), strict=False))
    best = predicted(outputs_K[None], facts.task)[0].topk(min(3, facts.num_outputs))
    return ", ".join(f"{facts.output_names[i]} {p:.3f}" for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True))


def _titled(score: Score, facts: DatasetFacts) -> str:
    """What is explained, in words."""
    if score.labels_BK is not None:
        return "all labels"
    return f"{'class ' if facts.task == 'classes' else ''}{facts.output_names[score.target_B[0]]}"


def _write(out: Path, files: dict[str, bytes], arrays: dict[str, NDArray[Any]], *, stem: str) -> None:
    from results.write import write_files

    packed = io.BytesIO()
    np.savez(packed, **arrays)  # pyright: ignore[reportArgumentType] - an array is one
    write_files(out, files | {f"{stem}.npz": packed.getvalue()})
