"""Samples for training, attribution and evaluation, sliced out of (memory-mapped) arrays a whole batch at a time.

N = samples, B = batch, C = channels or features, H, W = pixels, K = outputs. Signals (N, C, T) and features (N, F) work like images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.core.randomness import SampleStreams
from pipeline.methods.augmentation.transforms import Transformer, transformed
from pipeline.methods.lazy import torch
from pipeline.methods.tasks import Kind, Task, kind_of

Positions = NDArray[np.integer] | slice
UNITS: dict[Kind, float] = {"image": 255.0, "signal": 1.0, "features": 1.0}
"""How many stored units make one of those that mean and standard deviation are given in: pixels count in [0, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSet:
    """N samples, in an order of their own, out of one or more arrays that are never copied whole."""

    arrays: tuple[NDArray[Any], ...]
    """Where the samples lie, in one of the forms of `tasks.FORMS`, memory-mapped or not."""
    array_of_N: NDArray[np.int64]
    """Position in `arrays` of each sample's array."""
    row_of_N: NDArray[np.int64]
    """Row of each sample in its array."""
    labels_N: NDArray[np.int64]
    """Class index; -1 where samples have labels or values."""
    task: Task
    """What is asked of the samples."""
    values_NK: NDArray[np.float32] | None = None
    """Labels, 0 or 1, or values to predict; None where there are classes."""
    crop_steps: int | None = None
    """Time steps of a signal that the model sees at once, in training; None: all."""
    sample_ids_N: NDArray[np.int64]
    mean_C: NDArray[np.float32]
    """What normalised samples are centred at, a channel or feature; images in [0, 1] units of pixel / 255."""
    std_C: NDArray[np.float32]
    """What they are divided by, in the same units."""
    lowest_C: NDArray[np.float32]
    """The least value that a sample can have, in the same units."""
    highest_C: NDArray[np.float32]
    """The greatest one."""
    masks_NHW: NDArray[np.bool_] | None = None
    """Where what tells the class is known to lie; row i is sample_id i, also of what was made of it. None where nobody knows."""

    @classmethod
    def of(
        cls,
        array: NDArray[Any],
        *,
        labels: ArrayLike,
        mean: ArrayLike,
        std: ArrayLike,
        lowest: ArrayLike = 0.0,
        highest: ArrayLike = 1.0,
        task: Task = "classes",
        values: NDArray[np.float32] | None = None,
        crop_steps: int | None = None,
        rows: ArrayLike | None = None,
        sample_ids: ArrayLike | None = None,
        masks: NDArray[np.bool_] | None = None,
    ) -> SampleSet:
        """Samples of one array.

        Args:
            array: samples in one of the forms of `tasks.FORMS`.
            labels: class index of each sample.
            mean: (C,) or one number; of images, of pixel / 255.
            std: likewise; above 0.
            lowest: likewise, the least value that a sample can have.
            highest: likewise, the greatest one.
            task: what is asked of the samples.
            values: (N, K) labels or values to predict; None where there are classes.
            crop_steps: time steps of a signal that the model sees at once, in training; None: all.
            rows: row of each sample; None takes all rows in order.
            sample_ids: id of each sample; None takes the rows.
            masks: where what tells the class is known to lie; row i is sample_id i.

        Raises:
            ValueError: the array is of another type or form, lengths differ, or a standard deviation is not above 0.
        """
        kind_of(array)
        if (values is None) != (task == "classes"):
            raise ValueError(f"task {task} {'takes no' if task == 'classes' else 'needs'} values, one row a sample")
        rows_N = np.arange(len(array)) if rows is None else np.asarray(rows, dtype=np.int64)
        ids_N = rows_N if sample_ids is None else np.asarray(sample_ids, dtype=np.int64)
        labels_N = np.asarray(labels, dtype=np.int64)
        lengths = {"rows": len(rows_N), "labels": len(labels_N), "sample_ids": len(ids_N)}
        if values is not None:
            lengths["values"] = len(values)
        if len(set(lengths.values())) > 1:
            raise ValueError(f"wanted as many of each, got {lengths}")
        mean_C, std_C, lowest_C, highest_C = (
            np.broadcast_to(np.asarray(value, dtype=np.float32), array.shape[1]) for value in (mean, std, lowest, highest)
        )
        if not (std_C > 0).all():
            raise ValueError(f"std must be above 0 in each channel, got {std_C.tolist()}")
        return cls(
            arrays=(array,),
            array_of_N=np.zeros(len(rows_N), dtype=np.int64),
            row_of_N=rows_N,
            labels_N=labels_N,
            task=task,
            values_NK=values,
            crop_steps=crop_steps,
            sample_ids_N=ids_N,
            mean_C=mean_C,
            std_C=std_C,
            lowest_C=lowest_C,
            highest_C=highest_C,
            masks_NHW=masks,
        )

    def __len__(self) -> int:
        return len(self.labels_N)

    @property
    def kind(self) -> Kind:
        """What the samples are."""
        return kind_of(self.arrays[0])

    @property
    def truth(self) -> NDArray[Any]:
        """Classes (N,), or labels or values (N, K)."""
        return self.labels_N if self.values_NK is None else self.values_NK

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """(C, H, W) of one image, (C, T) of a signal, (F,) of features."""
        return self.arrays[0].shape[1:]

    def stored(self, positions: Positions) -> NDArray[Any]:
        """(B, C, H, W): the samples at these positions, as they are stored."""
        array_of_B, row_of_B = self.array_of_N[positions], self.row_of_N[positions]
        if len(self.arrays) == 1:
            return self.arrays[0][row_of_B]
        stored_BCHW = np.empty((len(row_of_B), *self.sample_shape), dtype=self.arrays[0].dtype)
        for number, array in enumerate(self.arrays):
            chosen_B = array_of_B == number
            stored_BCHW[chosen_B] = array[row_of_B[chosen_B]]
        return stored_BCHW

    def batch(
        self,
        positions: Positions,
        *,
        device: str,
        streams: SampleStreams | None = None,
        transforms: Sequence[Transformer] = (),
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the model gets, and what it should say of it, on the device.

        Args:
            positions: of the samples.
            device: where to.
            streams: for training: one a sample, to draw where in its signal its crop begins, and what transforms do. None gives whole
                signals and images as they are.
            transforms: what changes images at random; without effect where there are no streams.

        Returns:
            Normalised samples (B, C, H, W) float32, of images (pixel / 255 - mean) / std, of text tokens (B, L) int64; and the truth:
            classes (B,) int64, or labels or values (B, K) float32.
        """
        truth = torch.tensor(self.truth[positions], device=device)
        if self.kind == "tokens":
            return torch.from_numpy(self.stored(positions)).to(device).long(), truth
        # The bytes travel and become floats on the device: a quarter of the transfer.
        stored_BCHW, unit = self.stored(positions), UNITS[self.kind]
        if streams is not None and self.crop_steps is not None:
            stored_BCHW = _cropped(stored_BCHW, self.crop_steps, streams.named("crop"))
        x_BCHW = torch.from_numpy(stored_BCHW).to(device)
        if streams is not None and transforms:
            mean_C = torch.tensor((unit * self.mean_C).round(), dtype=torch.uint8, device=device)
            x_BCHW = transformed(x_BCHW, transforms, streams=streams, mean_C=mean_C)
        scale_C11, mean_C11 = (self._by_channel(value_C, device=device) for value_C in (unit * self.std_C, unit * self.mean_C))
        return x_BCHW.float().sub_(mean_C11).div_(scale_C11), truth

    def masks(
        self, positions: Positions, *, device: str, streams: SampleStreams, transforms: Sequence[Transformer] = ()
    ) -> torch.Tensor | None:
        """(B, H, W) bool, moved as `batch` moves the images with the same streams and transforms; None where there are no masks."""
        if self.masks_NHW is None:
            return None
        mask_B1HW = torch.from_numpy(self.masks_NHW[self.sample_ids_N[positions]][:, None].astype(np.uint8)).to(device)
        outside_C = torch.zeros(1, dtype=torch.uint8, device=device)
        return transformed(mask_B1HW, transforms, streams=streams, mean_C=outside_C)[:, 0].bool()

    def explained_outputs(self, positions: Positions, *, device: str) -> torch.Tensor:
        """(B,) int64 which output is a sample's own: that of its class, and of values the first; of labels all, (B, K) float32."""
        own = np.zeros_like(self.labels_N) if self.task == "values" else self.truth
        return torch.tensor(own[positions], device=device)

    def input_range(self, *, device: str) -> tuple[torch.Tensor, torch.Tensor]:
        """What the least and the greatest value are once normalised, as those of a black and a white image; each (C, 1, 1), float32."""
        lowest_C, highest_C = ((value_C - self.mean_C) / self.std_C for value_C in (self.lowest_C, self.highest_C))
        return self._by_channel(lowest_C, device=device), self._by_channel(highest_C, device=device)

    def _by_channel(self, value_C: NDArray[np.float32], *, device: str) -> torch.Tensor:
        """(C, 1, 1), to broadcast to one sample."""
        return torch.tensor(value_C.reshape(-1, *[1] * (len(self.sample_shape) - 1)), device=device)

    def take(self, positions: Positions) -> SampleSet:
        """The samples at these positions, in their order."""
        names = ("array_of_N", "row_of_N", "labels_N", "sample_ids_N")
        taken = {name: getattr(self, name)[positions] for name in names}
        return replace(self, **taken, values_NK=None if self.values_NK is None else self.values_NK[positions])


def _cropped(x_BCT: NDArray[Any], num_steps: int, streams: SampleStreams) -> NDArray[Any]:
    """(B, C, num_steps): a part of each signal, which begins at any step with equal chances."""
    start_B = (streams.uniform(1)[:, 0] * (x_BCT.shape[2] - num_steps + 1)).astype(np.int64)
    return np.take_along_axis(x_BCT, start_B[:, None, None] + np.arange(num_steps), axis=2)


def concatenate(first: SampleSet, second: SampleSet) -> SampleSet:
    """The samples of one after those of the other; sample ids stay as they are.

    Raises:
        ValueError: the two differ in sample shape, task, mean or standard deviation.
    """
    for name in ("sample_shape", "task", "mean_C", "std_C"):
        one, other = getattr(first, name), getattr(second, name)
        if not np.array_equal(one, other):
            raise ValueError(f"samples to put together must agree in {name}, got {one} and {other}")
    values = [given.values_NK for given in (first, second) if given.values_NK is not None]
    return replace(
        first,
        arrays=first.arrays + second.arrays,
        array_of_N=np.concatenate([first.array_of_N, second.array_of_N + len(first.arrays)]),
        row_of_N=np.concatenate([first.row_of_N, second.row_of_N]),
        labels_N=np.concatenate([first.labels_N, second.labels_N]),
        values_NK=np.concatenate(values) if values else None,
        sample_ids_N=np.concatenate([first.sample_ids_N, second.sample_ids_N]),
    )
