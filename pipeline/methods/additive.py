"""Additive functions whose true attributions are known, f(x) = .25 + sum_j (beta_j e(x_j) + .25) over 12 features.

Constants and the nonlinear e are those of the approximated-gradients study. Everything works on NumPy arrays and on torch tensors
alike: nothing but operators is used.

B = batch, F = 12 features
"""

from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

Effect = Literal["linear", "nonlinear"]
Array = TypeVar("Array")
"""A NumPy array or a torch tensor."""

INTERCEPT = 0.25
"""Of each effect, and once more of their sum."""
BETA: dict[Effect, tuple[float, ...]] = {
    "linear": (-1, -0.5, 0.8, 0, -1.6, 2, 0.5, 2.3, 1.5, -1.75, -0.7, 1.9),
    "nonlinear": (-1, -2.5, 2.8, 0, -1.6, 2, 0.5, 2.3, 1.5, -1.75, -1.7, 1.9),
}
NUM_FEATURES = 12
INNER = 0.6744897501960817
"""Third quartile of the normal distribution: below it, in size, the nonlinear e is 1."""
OUTER = 1.5
"""From it on, in size, the nonlinear e is a parabola; between the two it is -1."""


def shape_of(x: Array, effect: Effect) -> Array:
    """e(x), value by value: x itself, or 1, -1 and sign(x) .05 (x^2 - 2.25) - 1 from the middle outwards."""
    if effect == "linear":
        return x
    size = abs(x)  # type: ignore[arg-type]
    inner, outer, sign = size < INNER, size >= OUTER, 1.0 * (x > 0) - 1.0 * (x < 0)  # type: ignore[operator]
    return 0.05 * (x**2 - OUTER**2) * sign * outer + (2.0 * inner - 1.0)  # type: ignore[operator]


def slope_of(x: Array, effect: Effect) -> Array:
    """The derivative of e, which the jumps of the nonlinear one are no part of: .1 |x| where |x| is 1.5 or more, else 0."""
    return 0.0 * x + 1.0 if effect == "linear" else 0.1 * abs(x) * (abs(x) >= OUTER)  # type: ignore[operator, arg-type, return-value]


def effects(x_BF: Array, beta_F: Array, effect: Effect) -> Array:
    """(B, F) what each feature adds, its share of the intercept included: beta e(x) + .25."""
    return shape_of(x_BF, effect) * beta_F + INTERCEPT  # type: ignore[operator]


def drawn(num: int, effect: Effect, *, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Features (num, F) and values (num,) = f(x) + N(0, 1).

    Feature j is normal with mean from U(-2, 2) and variance from U(.9, 1.1); numpy's default generator draws means, variances,
    features and noise, in this order.
    """
    rng = np.random.default_rng(seed)
    mean_F, variance_F = rng.uniform(-2, 2, NUM_FEATURES), rng.uniform(0.9, 1.1, NUM_FEATURES)
    x_NF = rng.normal(mean_F, np.sqrt(variance_F), (num, NUM_FEATURES)).astype(np.float32)
    noise_N = rng.normal(size=num)
    value_N = INTERCEPT + effects(x_NF.astype(np.float64), np.array(BETA[effect]), effect).sum(1) + noise_N
    return x_NF, value_N.astype(np.float32)
