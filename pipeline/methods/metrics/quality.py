"""What quality metrics have in common.

N = samples
"""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pipeline.methods.metrics.column import Column


class Quality(Column):
    """A metric of one number a sample; not a metric itself."""

    needs_mask: ClassVar[bool] = False
    needs_classes: ClassVar[bool] = False

    @property
    def needs_images(self) -> bool:
        """It takes samples of any kind. See `QualityMetric`."""
        return False

    @property
    def points(self) -> tuple[float, ...]:
        """None: it has no curve. See `QualityMetric`."""
        return ()

    def summary(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N,) the values as they are."""
        return values
