"""prepare: any data set becomes one index and one memory-mapped array; splits and folds are made here, once.

N = samples, C = channels or features, V = values of a byte
"""

import hashlib
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.context import Context, StopRequested
from pipeline.core.settings import SettingsError
from pipeline.core.step import Stage
from pipeline.core.tables import INDEX, write_table
from pipeline.methods.datasets import Dataset, Samples, Shortcut
from pipeline.methods.datasets.splits import ImageSettings, Scale, stratified_folds
from pipeline.methods.training.ddp import any_rank
from pipeline.stages.artifacts import DatasetFacts, write_array, write_vocabulary
from pipeline.stages.sharing import Columns, SharedArray, gather_columns


def run(data: Dataset, *, inputs: Mapping[str, Path], out: Path, context: Context) -> None:
    """Load the samples, divide the training part into folds, and hold fold `data.fold` out as split `validation`.

    Loading is begun anew by each attempt and done by every rank; copying and hashing are shared and taken up again.

    Raises:
        FileNotFoundError: files of the data set are missing.
        SettingsError: the settings ask for what the data do not have, or leave a split without samples.
        StopRequested: a rank was asked to stop.
    """
    samples = _loaded(data, context)
    for line in samples.faults if context.ranks.is_first else ():
        print(f"left out: {line}", flush=True)
    splits_N, fold_N = splits_and_folds(data, samples)
    x_NCHW = samples.x_NCHW
    array = SharedArray(out / "samples.npy", shape=x_NCHW.shape, dtype=x_NCHW.dtype.type, context=context)

    def copy(positions: NDArray[np.int64]) -> Columns:
        array.rows[positions - array.span.start] = x_NCHW[positions]
        return {"sha256": np.array([hashlib.sha256(sample.tobytes()).hexdigest() for sample in x_NCHW[positions]], dtype="S64")}

    # An earlier attempt may have read other files: its checkpoints then have another name, and are left alone.
    work = f"copy-{zlib.crc32(np.ascontiguousarray(x_NCHW).data):08x}"
    copied_N = gather_columns(len(samples), context, name=work, work=copy, array=array)
    array.close()
    facts = facts_of(data, samples, x_NCHW[splits_N == "train"])
    if context.ranks.is_first:
        columns = {
            "sample_id": np.arange(len(splits_N)),
            "label": samples.labels_N,
            "split": splits_N,
            "fold": fold_N,
            "source": samples.sources_N,
            "sha256": copied_N["sha256"].astype(str),
        }
        write_table(out / "index.parquet", columns, INDEX)
        write_vocabulary(out, samples.vocabulary)
        if samples.vectors_VE is not None:
            write_array(out / "vectors.npy", samples.vectors_VE)
        if samples.values_NK is not None:
            write_array(out / "values.npy", samples.values_NK)
        if samples.masks_NHW is not None:
            write_array(out / "masks.npy", samples.masks_NHW)
        facts.write(out)
    context.metrics.update({"num_samples": len(splits_N), **samples.left_out})


def _loaded(data: Dataset, context: Context) -> Samples:
    """All samples; the ranks, each of which reads them by itself, stop together.

    Raises:
        StopRequested: a rank was asked to stop while it read.
    """

    def report(done: int, total: int) -> None:
        context.progress(done, total, unit="samples read")
        if context.should_stop():
            raise StopRequested(f"stopped when {done} of {total} samples were read; run the same command again to read them anew")

    stop, samples = None, None
    try:
        samples = data.load(context.data_root, report=report)
    except StopRequested as error:
        stop = error
    if any_rank(context.ranks, flag=stop is not None) or samples is None:
        raise stop or StopRequested("another rank was asked to stop; run the same command again")
    return samples


def splits_and_folds(data: Dataset, samples: Samples) -> tuple[NDArray[np.str_], NDArray[np.int32]]:
    """The split (N,) of each sample, and its fold (N,): the data set's own, or one made here, -1 outside of the training part.

    Raises:
        SettingsError: a split would have no sample, or there are fewer training samples than folds.
    """
    in_train_N, has_own_folds = samples.splits_N == "train", samples.folds_N is not None
    for split in ("train", *(["validation"] if has_own_folds else []), *data.test_splits):
        if not (samples.splits_N == split).any():
            raise SettingsError(
                f"data: wanted a sample or more in split {split!r}, got none of {len(samples)}; "
                f"set {'num_records' if has_own_folds else 'num_train, num_test or test_fraction'} so that it has some"
            )
    if samples.folds_N is not None:
        return samples.splits_N, samples.folds_N
    fold_N = np.full(len(samples), -1, dtype=np.int32)
    if data.folds == 1:
        return samples.splits_N, fold_N
    strata_N = samples.labels_N
    if data.task == "labels" and samples.values_NK is not None:
        # Samples with the same labels are dealt out evenly, as those of one class are; values have nothing to be dealt out by.
        strata_N = np.unique(samples.values_NK, axis=0, return_inverse=True)[1]
    fold_N[in_train_N] = stratified_folds(strata_N[in_train_N], folds=data.folds, seed=data.split_seed)
    return np.where(in_train_N & (fold_N == data.fold), "validation", samples.splits_N), fold_N


def facts_of(data: Dataset, samples: Samples, train_NCHW: NDArray[Any]) -> DatasetFacts:
    """What holds of all samples, from those of the train split."""
    if data.kind == "tokens":
        return _facts_of_text(data, samples)
    is_image = data.kind == "image"
    given = data.scale if isinstance(data, ImageSettings | Shortcut) else None
    if given is not None:
        mean_C, std_C = _given(given, num_channels=train_NCHW.shape[1])
    else:
        mean_C, std_C = (_statistics if is_image else _float_statistics)(train_NCHW)
    if data.normalised_by == "all":
        mean_C, std_C = _of_all(mean_C, std_C)
    if data.normalised_by == "nothing":
        mean_C, std_C = np.zeros_like(mean_C), np.ones_like(std_C)
    inner = tuple(axis for axis in range(train_NCHW.ndim) if axis != 1)
    lowest_C, highest_C = (np.zeros_like(mean_C), np.ones_like(mean_C)) if is_image else (train_NCHW.min(inner), train_NCHW.max(inner))
    return DatasetFacts(
        task=data.task,
        input_shape=samples.x_NCHW.shape[1:],
        output_names=tuple(samples.output_names),
        crop_steps=samples.crop_steps,
        mean_C=tuple(mean_C.tolist()),
        std_C=tuple(std_C.tolist()),
        lowest_C=tuple(lowest_C.tolist()),
        highest_C=tuple(highest_C.tolist()),
        feature_names=tuple(samples.feature_names),
    )


def _facts_of_text(data: Dataset, samples: Samples) -> DatasetFacts:
    """Tokens have no scale: they are numbers of words."""
    return DatasetFacts(
        task=data.task,
        input_shape=samples.x_NCHW.shape[1:],
        output_names=tuple(samples.output_names),
        crop_steps=samples.crop_steps,
        mean_C=(0.0,),
        std_C=(1.0,),
        lowest_C=(0.0,),
        highest_C=(len(samples.vocabulary) - 1.0,),
        num_words=len(samples.vocabulary),
        vector_size=0 if samples.vectors_VE is None else samples.vectors_VE.shape[1],
    )


def _given(scale: Scale, *, num_channels: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each channel, as the settings have them."""
    if len(scale.mean) not in (1, num_channels):
        raise SettingsError(f"data.normalise has {len(scale.mean)} means, but images have {num_channels} channels; give one, or one each")
    mean_C, std_C = (np.broadcast_to(np.array(value, dtype=np.float64), num_channels) for value in (scale.mean, scale.std))
    return mean_C, std_C


def _statistics(images_NCHW: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each channel in [0, 1], exact, from the counts of the 256 values."""
    counts_CV = np.stack([np.bincount(images_NCHW[:, c].ravel(), minlength=256) for c in range(images_NCHW.shape[1])])
    values_V = np.arange(256) / 255.0
    share_CV = counts_CV / counts_CV.sum(axis=1, keepdims=True)
    mean_C = share_CV @ values_V
    std_C = np.sqrt((share_CV * (values_V - mean_C[:, None]) ** 2).sum(axis=1))
    return mean_C, np.maximum(std_C, 1.0 / 255.0)  # A constant channel must not be divided by zero.


def _float_statistics(values_NCT: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each channel or feature; 1 for a constant one, which must not be divided by zero."""
    inner = tuple(axis for axis in range(values_NCT.ndim) if axis != 1)
    mean_C, std_C = values_NCT.mean(inner, dtype=np.float64), values_NCT.std(inner, dtype=np.float64)
    return mean_C, np.where(std_C > 0, std_C, 1.0)


def _of_all(mean_C: NDArray[np.float64], std_C: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of all channels' values together, once for each channel: channels have equally many values."""
    variance = np.mean(std_C**2 + (mean_C - mean_C.mean()) ** 2)
    return np.full_like(mean_C, mean_C.mean()), np.full_like(std_C, np.sqrt(variance))


STAGE = Stage(name="prepare", needs=(), run=run, version=4)
