"""What samples are and what is asked of them: words that data sets, models and metrics share."""

from typing import Literal

Kind = Literal["image", "features"]
"""image: uint8 (C, H, W); features: float32 (F,)."""

Task = Literal["classes", "values"]
"""classes: one of K for each sample, outputs are logits; values: K real numbers, outputs are those numbers."""
