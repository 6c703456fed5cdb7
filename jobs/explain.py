"""`attrain explain`: maps of what decided a trained model about inputs of a user's own.

C = channels, H, W = pixels, K = classes
"""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import NDArray

from pipeline.core.errors import UserError
from pipeline.core.randomness import SampleStreams, generator
from pipeline.core.settings import SettingsError, parse
from pipeline.core.store import Store
from pipeline.methods.attribution import Attribution, Attributor, Background, TargetRule, attribute
from pipeline.methods.lazy import torch
from pipeline.stages.artifacts import DatasetFacts, Prepared, read_facts, read_model

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
            train = prepared.images("train")
        except (OSError, KeyError, ValueError) as error:
            raise InputError(f"the method needs training samples, and those of {self.folder} are not beside it ({error})") from error
        return train.batch(generator(0, "background").permutation(len(train))[:num], device="cpu")[0]

    def read(self, source: Path) -> NDArray[np.uint8]:
        """(C, H, W) pixels of an image file, made grey or coloured and scaled as the model wants them, or of a uint8 .npy file.

        Raises:
            InputError: the file is neither.
        """
        channels, height, width = self.facts.input_shape
        if source.suffix == ".npy":
            return _read_array(source, shape=self.facts.input_shape)
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(source) as image:
                scaled = image.convert("L" if channels == 1 else "RGB").resize((width, height), Image.Resampling.BILINEAR)
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise InputError(f"{source} cannot be read as an image ({error}); wanted a picture, or a .npy file of uint8") from error
        return np.asarray(scaled, dtype=np.uint8).reshape(height, width, channels).transpose(2, 0, 1)

    def normalised(self, pixels_CHW: NDArray[np.uint8]) -> "Tensor":
        """(1, C, H, W) as the model gets it."""
        return (torch.from_numpy(pixels_CHW.copy()).float() / 255 - self._column(self.facts.mean_C)).div(self._column(self.facts.std_C))[
            None
        ]

    @property
    def background(self) -> Background:
        """What a method may know: range, training samples, and one stream for the one sample."""
        mean_C11, std_C11 = self._column(self.facts.mean_C), self._column(self.facts.std_C)
        return Background(
            streams=SampleStreams(sample_ids_B=np.zeros(1, dtype=np.int64), seed=0, purpose="attribution"),
            lowest_CHW=-mean_C11 / std_C11,
            highest_CHW=(1 - mean_C11) / std_C11,
            samples=self.training_samples,
        )

    @staticmethod
    def _column(values: Sequence[float]) -> "Tensor":
        return torch.tensor(values)[:, None, None]


def _read_array(source: Path, *, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    try:
        array = np.load(source, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{source} cannot be read as an array ({error})") from error
    if array.shape != shape or array.dtype != np.uint8:
        raise InputError(f"{source}: wanted uint8 {shape}, got {array.dtype} {array.shape}")
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

    Files: OUT/<source>.<method>.png and OUT/<source>.npz with pixels, logits, and one array (C, H, W) a method.

    Raises:
        InputError: the input cannot be read.
        ValueError: the model has no such class, or the method cannot explain such a model.
    """
    pixels_CHW = checkpoint.read(source)
    x_1CHW, names = checkpoint.normalised(pixels_CHW), checkpoint.facts.class_names
    with torch.no_grad():
        logits_K = checkpoint.model(x_1CHW)[0]
    best = logits_K.softmax(0).topk(min(3, len(names)))
    yield f"{source.name}: " + ", ".join(f"{names[i]} {p:.3f}" for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True))
    # What the true class is nobody says: the prediction stands for it.
    score = target(checkpoint.model, x_1CHW, best.indices[:1])
    arrays, files = {"pixels": pixels_CHW, "logits": logits_K.numpy()}, {}
    for name, method in methods.items():
        found = attribute(method, checkpoint.model, x_1CHW, score, background=checkpoint.background)
        arrays[name] = found.phi_BCHW[0].numpy()
        files[f"{source.stem}.{name}.png"] = _picture(
            pixels_CHW, arrays[name], title=f"{source.name}: {name}, class {names[score.target_B[0]]}"
        )
        gap = "" if found.completeness_gap_B is None else f" ({float(found.completeness_gap_B[0]):+.2g} off)"
        yield f"  {name}: sum {float(found.sum_B[0]):+.3g}{gap}; {out / f'{source.stem}.{name}.png'}"
    _write(out, files, arrays, stem=source.stem)
    yield f"  as arrays: {out / f'{source.stem}.npz'}"


def _picture(pixels_CHW: NDArray[np.uint8], phi_CHW: NDArray[np.floating], *, title: str) -> bytes:
    from results.maps import overlay

    buffer = io.BytesIO()
    overlay(pixels_CHW, phi_CHW, title=title).savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _write(out: Path, files: dict[str, bytes], arrays: dict[str, NDArray[Any]], *, stem: str) -> None:
    from results.write import write_files

    packed = io.BytesIO()
    np.savez(packed, **arrays)  # pyright: ignore[reportArgumentType] - an array is one
    write_files(out, files | {f"{stem}.npz": packed.getvalue()})
