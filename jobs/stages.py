"""The stages' names in the order they run, for what must answer at once: to import the stages themselves takes longer."""

from collections.abc import Iterable

STAGE_NAMES = ("prepare", "pretrain", "attribute", "augment", "retrain", "evaluate")


def in_order(names: Iterable[str]) -> list[str]:
    """Names of stages, each once, in the order they run, which is not that of a plan: a run without rounds is evaluated in round 0.

    Those that this code does not know, of a plan made by other code, come last.
    """
    return sorted(dict.fromkeys(names), key=lambda name: STAGE_NAMES.index(name) if name in STAGE_NAMES else len(STAGE_NAMES))
