"""Drawn features with values that are a known function of them, plus noise: what tells each value is known exactly. numpy only."""

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from pipeline.methods.additive import Effect, drawn
from pipeline.methods.datasets.samples import NO_CLASS, NormalisedBy, Report, Samples, no_report
from pipeline.methods.datasets.splits import FoldSettings
from pipeline.methods.tasks import Kind, Task


class Additive(FoldSettings):
    """12 independent normal features and one value: a sum of one function of each, and noise of variance 1. Nothing to download.

    See `pipeline.methods.additive` for the functions. No model can explain more of the variance than .95 (linear) or .97.
    """

    kind: ClassVar[Kind] = "features"
    task: ClassVar[Task] = "values"
    normalised_by: ClassVar[NormalisedBy] = "nothing"
    test_splits: ClassVar[tuple[str, ...]] = ("test",)
    num_outputs: ClassVar[int] = 1
    dataset: Literal["additive"] = "additive"
    effect: Effect = "nonlinear"
    """What a feature adds: proportional to it, or a step function with curved ends."""
    num_train: int = Field(default=1000, ge=1)
    """Samples of the train split, those held out for validation among them."""
    num_test: int = Field(default=300, ge=1)
    """Samples of the test split."""
    generator_seed: int = Field(default=0, ge=0)
    """Seed of the features' distributions, of the features and of the noise."""

    def missing_files(self, root: Path) -> tuple[Path, ...]:
        """None: the samples are drawn."""
        return ()

    def load(self, root: Path, *, report: Report = no_report) -> Samples:
        """See `DatasetSettings.load`."""
        num = self.num_train + self.num_test
        x_NF, value_N = drawn(num, self.effect, seed=self.generator_seed)
        return Samples(
            x_NCHW=x_NF,
            labels_N=np.full(num, NO_CLASS, dtype=np.int32),
            values_NK=value_N[:, None],
            splits_N=np.repeat(["train", "test"], [self.num_train, self.num_test]),
            sources_N=[f"drawn[{row}]" for row in range(num)],
            output_names=("value",),
        )
