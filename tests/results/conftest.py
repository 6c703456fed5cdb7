from math import nan

import numpy as np
import pandas as pd
import pytest

ARMS = {
    "trained on clean digits": (0.955, 0.957),
    "none": (0.450, 0.962),
    "same compute": (0.455, 0.965),
    "replace_random 0.01 append": (0.460, 0.961),
    "replace_bottom 0.01 append": (0.440, 0.958),
    "replace_top 0.01 append": (0.770, 0.960),
    "replace_top 0.01 replace": (0.870, 0.955),
}


@pytest.fixture
def sweep() -> pd.DataFrame:
    """7 arms x 3 seeds, one run missing, as `collect` would give it."""
    noise = np.random.default_rng(0)
    rows = []
    for arm, (accuracy, clean) in ARMS.items():
        for seed in range(3):
            missing = (arm, seed) == ("replace_top 0.01 append", 2)
            rows.append(
                {
                    "arm": arm,
                    "seed": seed,
                    "fold": 0,
                    "folds": 5,
                    "augmentation.fraction": 0.01 if "replace" in arm else None,
                    "model.channels": [16, 32],
                    "test.accuracy": nan if missing else accuracy + noise.normal(0, 0.05),
                    "test_clean.accuracy": nan if missing else clean + noise.normal(0, 0.003),
                    "test.nll": nan if missing else 2.5 * (1 - accuracy) + abs(noise.normal(0, 0.05)),
                    "state": "missing: retrain/92ae5501c1d2a9b0" if missing else "done",
                    "evaluation.top_k": 3,
                    "cost.seconds": nan if missing else 3.0 if arm == "none" else 6.5,
                    "cost.samples_seen": nan if missing else 12_000,
                }
            )
    return pd.DataFrame(rows)
