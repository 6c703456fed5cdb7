"""What tests of the store say of their artifacts."""

from typing import Any

FACTS: dict[str, Any] = {
    "settings": {"seed": 0},
    "inputs": {},
    "input_digests": {},
    "metrics": {},
    "seconds": 1.0,
    "cpu_seconds": 1.0,
    "peak_memory_mb": 1.0,
    "device": "cpu",
    "num_processes": 1,
    "num_threads": 1,
    "commit": None,
    "dirty": None,
}
"""What every record has; of no step in particular."""
