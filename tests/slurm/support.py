"""The experiment that is disturbed on the cluster, and what is read off its logs."""

import re

LONG = """
experiment: long
base:
  data: {dataset: mnist_small, num_train: 400, num_test: 100}
  model: {model: small_cnn}
  pretraining: {epochs: 150}
sweep: {seed: [0, 1]}
"""
"""Two runs, five steps; training is long enough to be disturbed more than once."""


def stops(printed: str) -> list[int]:
    """After which optimizer steps a training was stopped, attempt by attempt."""
    return [int(number) for number in re.findall(r"training stopped after step (\d+) of", printed)]


def resumptions(printed: str) -> list[int]:
    """After which optimizer steps a training was taken up again, attempt by attempt."""
    return [int(number) for number in re.findall(r"(?:resum|continu)\w* (?:from|after|at) step (\d+)", printed)]
