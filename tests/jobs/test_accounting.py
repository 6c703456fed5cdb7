"""What is read out of sacct's rows, as SLURM 22.05 printed them, and what older versions and GPUs add."""

import pytest

from jobs.accounting import asked_memory_mb, parse, seconds, size_mb
