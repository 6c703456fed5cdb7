"""Models that are no module here, as functions that the methods can call: TorchScript and ONNX files, scikit-learn, Python.

B = batch, C = channels, H, W = pixels, F = features, K = classes. Inputs (B, C, T) and (B, F) work the same way.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.methods.attribution.target import Forward
from pipeline.methods.lazy import torch


class Classifier(Protocol):
    """Such as a classifier of scikit-learn."""

    def predict_proba(self, X: NDArray[Any], /) -> NDArray[Any]:
        """(B, F) -> probabilities (B, K)."""
        ...


@dataclass(frozen=True, slots=True)
class FromNumpy:
    """A function of arrays: (B, C, H, W) -> (B, K), or (B,), which is taken for one class.

    Its answers keep their precision, also where it is above that of x.
    """

    function: Callable[[NDArray[Any]], NDArray[Any]]

    def __call__(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """(B, K) on the device of x.

        Raises:
            ValueError: the function does not give a row, or a number, for each sample.
        """
        found = np.asarray(self.function(x_BCHW.detach().cpu().numpy()))
        if found.ndim not in (1, 2) or len(found) != len(x_BCHW):
            raise ValueError(f"wanted {len(x_BCHW)} rows of classes from the function, one a sample, got an array of shape {found.shape}")
        return torch.from_numpy(np.ascontiguousarray(found)).to(x_BCHW.device).reshape(len(found), -1)


def from_scikit_learn(classifier: Classifier) -> FromNumpy:
    """The class probabilities of a classifier of flat features; those of trees change in jumps, which only large steps see."""
    return FromNumpy(lambda x_BCHW: classifier.predict_proba(x_BCHW.reshape(len(x_BCHW), -1)))


def from_torchscript(file: Path, *, device: str = "cpu") -> Forward:
    """What a file that `torch.jit.save` wrote computes in eval mode. Loading builds tensors and TorchScript code, no Python object.

    Raises:
        ValueError: there is no such file, or it is none of TorchScript.
    """
    _refuse_missing(file)
    try:
        with warnings.catch_warnings():
            # torch advises whoever writes such files to write others; here they are read.
            warnings.filterwarnings("ignore", r"`torch\.jit\.load` is deprecated", DeprecationWarning)
            module = torch.jit.load(str(file), map_location=device).eval()
    except RuntimeError as error:
        raise ValueError(f"{file} is no TorchScript file: {str(error).splitlines()[0]}; write it with torch.jit.save") from error
    return lambda x_BCHW: module(x_BCHW)


def from_onnx(file: Path) -> FromNumpy:
    """The first output of an ONNX file, on the CPU; x is given in the precision of its input.

    Raises:
        ModuleNotFoundError: onnxruntime is not installed.
        ValueError: there is no such file, it is none of ONNX, or it has several inputs.
    """
    _refuse_missing(file)
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"reading {file} needs onnxruntime, which is not installed; run `pip install 'attrain[onnx]'`") from error
    try:
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    except Exception as error:  # Its classes of errors share no base of their own.
        raise ValueError(f"{file} is no ONNX file that onnxruntime reads: {error}") from error
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise ValueError(f"{file} has the inputs {', '.join(found.name for found in inputs)}; wanted a model of one input")
    dtype = np.float64 if inputs[0].type == "tensor(double)" else np.float32
    return FromNumpy(lambda x_BCHW: np.asarray(session.run(None, {inputs[0].name: x_BCHW.astype(dtype, copy=False)})[0]))


def _refuse_missing(file: Path) -> None:
    if not file.is_file():
        raise ValueError(f"wanted a model file, but there is none at {file}")
