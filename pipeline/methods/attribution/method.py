"""What attribution methods have in common; no method itself."""

from __future__ import annotations

from pydantic import Field

from pipeline.core.settings import Settings
from pipeline.methods.attribution.baseline import Baseline, BaselineRule, Black


class Method(Settings):
    """A method whose maps have signs, and no sum that is known beforehand."""

    @property
    def sums_from(self) -> BaselineRule | None:
        """See `Attributor`."""
        return None

    @property
    def is_signed(self) -> bool:
        """Whether negative values speak against what is explained; False where there are none."""
        return True


class UnsignedMethod(Method):
    """A method whose maps say how much a value matters, not which way."""

    @property
    def is_signed(self) -> bool:
        """False."""
        return False


class BlackBoxMethod(Method):
    """Base of the methods that only call the model, so that it may be any function."""


class FromBaseline(Method):
    """Fields of methods whose attributions sum to f(x) - f(baseline)."""

    baseline: Baseline = Field(default_factory=Black)
    """What the input is compared with."""
    max_relative_gap: float | None = Field(default=None, gt=0)
    """How far a sample's sum may be from f(x) - f(baseline), as a share of that, before it is an error; None only records it.
    A difference below 0.001 logits counts as one of 0.001."""

    @property
    def sums_from(self) -> BaselineRule | None:
        """See `Attributor`."""
        return self.baseline
