"""What the stages hand one another: the files of each artifact, written and read in one place.

prepare:   index.parquet (INDEX), samples.npy (see tasks.FORMS), dataset.json; values.npy (float32, N K) where samples have labels or
           values, masks.npy (bool, N H W; of signals N T, of text N L) where the data set has masks; of text vocabulary.txt, a word a
           line, and vectors.npy (float32, V E) where words have some
pretrain, retrain: weights.safetensors, model.json (settings, facts of the data, file and sha256 of given weights), history.json,
           tensorboard/ (the history, as TensorBoard scalars); of text vocabulary.txt
attribute: attributions.npy (float32, one row a row of the table), attributed.parquet (ATTRIBUTED)
augment:   samples.npy (as that of prepare), augmented.parquet (AUGMENTED), sources.npy (int64), augmentation.json
evaluate:  metrics.json; of classes predictions.parquet (PREDICTIONS) and confusion.parquet (CONFUSION), of labels and values
           outputs.parquet (OUTPUTS), of labels labels.parquet (LABELS); with metrics of explanations quality.parquet (QUALITY) and
           curves.parquet (CURVES)

N = samples, A = made ones, M = their sources, C = channels, H, W = pixels, K = outputs
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.context import Context
from pipeline.core.randomness import generator, stream_key
from pipeline.core.settings import parse, plain
from pipeline.core.tables import AUGMENTED, INDEX, read_table
from pipeline.methods.lazy import torch
from pipeline.methods.legacy import Legacy
from pipeline.methods.models import Model, ModelSettings, given_weights
from pipeline.methods.tasks import Task
from pipeline.methods.training.data import SampleSet, concatenate
from pipeline.methods.training.scalars import write_history

if TYPE_CHECKING:
    from torch import nn


def write_array(path: Path, array: NDArray[Any]) -> None:
    """A raw array that can be memory-mapped."""
    np.save(path, np.ascontiguousarray(array), allow_pickle=False)


def read_array(path: Path) -> NDArray[Any]:
    """The array, memory-mapped and read-only; an empty one in memory, since nothing of it can be mapped."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError:
        return np.load(path, allow_pickle=False)


def write_json(path: Path, value: Any) -> None:
    """Settings or figures, readable by people.

    Raises:
        ValueError: a number is not finite, which is no JSON.
    """
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_vocabulary(folder: Path, vocabulary: Sequence[str]) -> None:
    """Write vocabulary.txt, where there is one."""
    if vocabulary:
        (folder / "vocabulary.txt").write_text("".join(f"{word}\n" for word in vocabulary), encoding="utf-8")


def read_vocabulary(folder: Path) -> tuple[str, ...]:
    """The word of each token; empty where samples are no text."""
    path = folder / "vocabulary.txt"
    return tuple(path.read_text(encoding="utf-8").split("\n")[:-1]) if path.exists() else ()


@dataclass(frozen=True, slots=True)
class DatasetFacts:
    """dataset.json: what holds of all samples."""

    task: Task
    input_shape: tuple[int, ...]
    """(C, H, W) of images, (C, T) of signals, (F,) of features."""
    output_names: tuple[str, ...]
    """Classes, or values."""
    mean_C: tuple[float, ...]
    """What a channel or feature is centred at for the model; of images, in [0, 1]."""
    std_C: tuple[float, ...]
    """What it is divided by, in the same units."""
    lowest_C: tuple[float, ...]
    """Its least value, in the same units."""
    highest_C: tuple[float, ...]
    """Its greatest value, in the same units."""
    feature_names: tuple[str, ...] = ()
    """Of features, in their order; empty where they have none."""
    crop_steps: int | None = None
    """L, time steps of a signal that a network sees at once; None: all."""
    num_words: int = 0
    """V, words of the vocabulary; 0 where samples are no text."""
    vector_size: int = 0
    """E, of the words' vectors; 0 where there are none."""

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "DatasetFacts":
        """The facts, from what JSON gives back."""
        lists: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
        return cls(**lists)

    @property
    def of_text(self) -> dict[str, int]:
        """What networks for text, and no others, have to know."""
        return {"num_words": self.num_words, "vector_size": self.vector_size} if self.num_words else {}

    @property
    def scales(self) -> dict[str, Any]:
        """What `SampleSet.of` has to know of the channels."""
        return {name: np.array(getattr(self, f"{name}_C")) for name in ("mean", "std", "lowest", "highest")}

    @property
    def num_outputs(self) -> int:
        """K, classes or values."""
        return len(self.output_names)

    def write(self, folder: Path) -> None:
        """Write dataset.json."""
        write_json(folder / "dataset.json", asdict(self))


@dataclass(frozen=True)
class Prepared:
    """A prepare artifact."""

    folder: Path
    redrawn: tuple[int, int] | None = None
    """(seed, round) of which the split into train and validation is drawn anew, see `Legacy.resplit`; None keeps the one that was made."""

    @cached_property
    def facts(self) -> DatasetFacts:
        """What dataset.json says."""
        return DatasetFacts.of(json.loads((self.folder / "dataset.json").read_text()))

    @cached_property
    def index(self) -> dict[str, NDArray[Any]]:
        """Columns of the index as arrays; row i is sample_id i."""
        table = read_table(self.folder / "index.parquet", INDEX)
        columns = {name: table[name].to_numpy() for name in ("sample_id", "label", "split", "fold")}
        if self.redrawn is not None:
            seed, round_number = self.redrawn
            split_N = columns["split"].copy()
            drawn = np.flatnonzero(np.isin(split_N, ("train", "validation")))
            split_N[drawn] = split_N[generator(seed, "legacy resplit", round_number).permutation(drawn)]
            columns["split"] = split_N
        return columns

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that hold samples, `train` first."""
        found = set(self.index["split"].tolist())
        return tuple(sorted(found, key=lambda split: (split != "train", split != "validation", split)))

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """The word of each token; empty where samples are no text."""
        return read_vocabulary(self.folder)

    @cached_property
    def masks(self) -> NDArray[np.bool_] | None:
        """Where what tells the class is known to lie, as in `Samples`; row i is sample_id i. None where the data set has none."""
        path = self.folder / "masks.npy"
        return read_array(path) if path.exists() else None

    def samples(self, *splits: str) -> SampleSet:
        """The samples of one split or several, in the order of their ids."""
        rows = np.flatnonzero(np.isin(self.index["split"], splits))
        values = self.folder / "values.npy"
        return SampleSet.of(
            read_array(self.folder / "samples.npy"),
            rows=rows,
            labels=self.index["label"][rows],
            task=self.facts.task,
            crop_steps=self.facts.crop_steps,
            values=np.asarray(read_array(values)[rows]) if values.exists() else None,
            sample_ids=self.index["sample_id"][rows],
            masks=self.masks,
            **self.facts.scales,
        )


@dataclass(frozen=True)
class Made:
    """An augment artifact: what was made of training samples, in this round and before."""

    folder: Path

    @cached_property
    def sources(self) -> NDArray[np.int64]:
        """(M,) sample_id of each source, ascending; where nothing was made, of each sample that would have been one."""
        return np.load(self.folder / "sources.npy", allow_pickle=False)

    @cached_property
    def samples(self) -> NDArray[Any]:
        """(A, C, H, W): made of sources[i], in its form; empty where nothing was made."""
        return read_array(self.folder / "samples.npy")

    @property
    def rounds(self) -> NDArray[np.int32]:
        """(A,) the round that last changed each."""
        return read_table(self.folder / "augmented.parquet", AUGMENTED)["round"].to_numpy()

    @property
    def mode(self) -> str:
        """'append' or 'replace'."""
        return self._about["mode"]

    @property
    def held_out_too(self) -> bool:
        """Whether some were made of samples that are held out, for evaluation."""
        return self._about["held_out_too"]

    @cached_property
    def _about(self) -> dict[str, Any]:
        return json.loads((self.folder / "augmentation.json").read_text())

    def in_place_of(self, plain: SampleSet) -> SampleSet:
        """The plain samples, with the made ones in their sources' places; in the order of their ids."""
        made = self.made_of(plain)
        kept = plain.take(np.flatnonzero(~np.isin(plain.sample_ids_N, made.sample_ids_N)))
        together = concatenate(kept, made)
        return together.take(np.argsort(together.sample_ids_N, kind="stable"))

    def made_of(self, plain: SampleSet) -> SampleSet:
        """The samples made of these, each with its source's id, label, labels or values, in the order of their ids."""
        sources_A = self.sources[: len(self.samples)]
        rows = np.flatnonzero(np.isin(sources_A, plain.sample_ids_N))
        order = np.argsort(plain.sample_ids_N, kind="stable")
        own = plain.take(order[np.searchsorted(plain.sample_ids_N, sources_A[rows], sorter=order)])
        return replace(own, arrays=(self.samples,), array_of_N=np.zeros(len(rows), dtype=np.int64), row_of_N=rows)


def prepared_for(legacy: Legacy | None, folder: Path, *, seed: int, round: int) -> Prepared:
    """The prepared samples with their splits, or with those that a published procedure would have drawn in this round."""
    return Prepared(folder, redrawn=(seed, round) if legacy is not None and legacy.resplit else None)


def fresh_network(model: ModelSettings, prepared: Prepared, *, seed: int, device: str, purpose: str = "initial weights") -> "nn.Module":
    """The network with untrained weights that depend on the seed and what they are for alone."""
    # Of the 63 bits torch's generator on the CPU uses the low 32 only, which the hash mixes too.
    torch.manual_seed(stream_key(seed, purpose) % 2**63)
    network = _built(model, prepared.facts)
    if prepared.facts.vector_size:
        vectors_VE = np.load(prepared.folder / "vectors.npy", allow_pickle=False)
        with torch.no_grad():
            network.get_parameter("embedding.weight").copy_(torch.from_numpy(vectors_VE))
    return network.to(device)


def initial_network(model: ModelSettings, prepared: Prepared, *, seed: int, context: Context) -> tuple["nn.Module", dict[str, Any] | None]:
    """The network that training begins with, and what is to be recorded of the weights that it was given; None of fresh ones.

    Raises:
        WeightFileError: the file of weights is missing, damaged or of another network.
    """
    network = fresh_network(model, prepared, seed=seed, device=context.device)
    given = given_weights(model, context.data_root)
    if given is None:
        return network, None
    from pipeline.methods.models.weights import load_weights

    origin = load_weights(network, given)
    if context.ranks.is_first:
        print(f"weights: {given.path} (sha256 {origin['sha256'][:16]}...), head {origin['head']}", flush=True)
    return network, origin


def _built(model: Any, facts: DatasetFacts) -> "nn.Module":
    if facts.crop_steps is None:
        return model.build(input_shape=facts.input_shape, num_outputs=facts.num_outputs, **facts.of_text)
    from pipeline.methods.models.windows import OverWindows

    network = model.build(input_shape=(*facts.input_shape[:-1], facts.crop_steps), num_outputs=facts.num_outputs)
    return OverWindows(network, length=facts.crop_steps)


def write_model(
    folder: Path,
    model: "nn.Module",
    *,
    settings: Model,
    facts: DatasetFacts,
    history: Sequence[Mapping[str, Any]],
    vocabulary: Sequence[str] = (),
    origin: Mapping[str, Any] | None = None,
) -> None:
    """Weights, what is needed to build the network again and to feed it, how training went, and `origin`: what it was given at first."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    (folder / "weights.safetensors").write_bytes(save(tensors))  # save_file would give it the mode 0600, also in a store of a group.
    # With the facts of its data: whoever has the folder can build the network and feed it.
    write_json(folder / "model.json", {"model": plain(settings), "data": asdict(facts)} | ({"weights": origin} if origin else {}))
    write_vocabulary(folder, vocabulary)
    write_json(folder / "history.json", history)
    write_history(folder, history)


def model_settings(folder: Path) -> Model:
    """What network a folder's weights are of."""
    return parse(Model, json.loads((folder / "model.json").read_text())["model"], where=str(folder / "model.json"))


def read_model(folder: Path, *, device: str) -> "nn.Module":
    """The network with its weights, in eval mode."""
    from safetensors.torch import load_file

    facts = read_facts(folder)
    model = _built(model_settings(folder), facts)
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    return model.to(device).eval()


def read_facts(folder: Path) -> DatasetFacts:
    """What holds of the samples that a model was trained on."""
    return DatasetFacts.of(json.loads((folder / "model.json").read_text())["data"])
