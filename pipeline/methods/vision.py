"""torchvision, imported here and nowhere else, so that a wheel built for CUDA also imports beside a CPU build of torch.

There the wheel's library cannot load, and so does not register its operators. torchvision lets that pass, but then
describes two of them to torch, which raises `operator torchvision::nms does not exist`, and for qnms after that.
Declared first, without an implementation, they let the import pass; to call them is an error, which nothing here does.
"""

from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder
from importlib.util import find_spec

import torch

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
"""As in torchvision/csrc/ops/nms.cpp and quantized/cpu/qnms_kernel.cpp, torchvision 0.28."""


def load_operators(folder: str) -> bool:
    """Load the compiled operators in the package's folder, as its own import does next; False if they cannot load here."""
    library = FileFinder(folder, (ExtensionFileLoader, EXTENSION_SUFFIXES)).find_spec("_C")
    if library is None or library.origin is None:
        return False
    try:
        torch.ops.load_library(library.origin)
    except OSError:
        return False
    return True


def declare_operators() -> torch.library.Library | None:
    """Declare the two operators where the wheel cannot; they stay declared as long as what is returned is kept.

    Raises:
        ModuleNotFoundError: torchvision is not installed.
    """
    wheel = find_spec("torchvision")
    if wheel is None or not wheel.submodule_search_locations:
        raise ModuleNotFoundError("torchvision is not installed; run `make install`, or create the environment of environment.yml")
    if load_operators(wheel.submodule_search_locations[0]):
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in SCHEMAS:
        library.define(schema)
    return library


_declared = declare_operators()

import torchvision as torchvision  # noqa: E402 # only now does it import
from torchvision.transforms.v2 import functional as functional  # noqa: E402
