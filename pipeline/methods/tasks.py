"""What samples are and what is asked of them: words that data sets, models and metrics share. numpy only."""

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Kind = Literal["image", "signal", "features", "tokens"]
"""image: (C, H, W) uint8; signal: (C, T) float32; features: (F,) float32; tokens: (L,) int32."""
KINDS: tuple[Kind, ...] = get_args(Kind)

Task = Literal["classes", "labels", "values"]
"""classes: one of K for each sample, outputs are logits; labels: any of K, outputs are a logit each; values: K real numbers, outputs
are those numbers."""

TokenMaps = Literal["sum", "values"]
"""What is kept of an attribution of text: one number a token, the sum over its vector, or each value of the vector."""

FORMS: dict[tuple[type[np.generic], int], Kind] = {
    (np.uint8, 4): "image",
    (np.float32, 3): "signal",
    (np.float32, 2): "features",
    (np.int32, 2): "tokens",
}
"""What an array of samples holds, by the type of its numbers and its axes, that of the samples among them."""


def kind_of(array: NDArray[Any]) -> Kind:
    """What an array (N, ...) holds.

    Raises:
        ValueError: it is none of the kinds.
    """
    try:
        return FORMS[array.dtype.type, array.ndim]
    except KeyError:
        forms = ", ".join(f"{kind} {dtype.__name__} with {ndim} axes" for (dtype, ndim), kind in FORMS.items())
        raise ValueError(f"wanted samples of {forms}; got {array.dtype} in {array.shape}") from None
