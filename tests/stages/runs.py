"""Runs of all kinds on a few digits, made in this process: what the tests of the stages look at."""

import json
from pathlib import Path

import numpy as np

from jobs.experiment import Run, load_experiment
from jobs.planning import make_plan
from jobs.run import DONE, Task, run_task
from pipeline.core.plan import Plan, PlannedStep
from pipeline.core.store import Store
from pipeline.core.tables import AUGMENTED, read_table
from pipeline.stages.artifacts import Prepared, read_array

NUM_TRAIN, NUM_TEST, FOLDS = 200, 100, 5
NUM_VALIDATION = NUM_TRAIN // FOLDS
NUM_PLAIN = NUM_TRAIN - NUM_VALIDATION
NUM_WORST = NUM_PLAIN // 2
BATCH_SIZE = 32
NUM_EXPLAINED = 70
EXPERIMENT = f"""
experiment: stages
base:
  data: {{dataset: mnist_small, num_train: {NUM_TRAIN}, num_test: {NUM_TEST}, folds: {FOLDS}}}
  model: {{model: mlp, hidden: [16]}}
  pretraining: {{epochs: 3, batch_size: {BATCH_SIZE}}}
  attribution: {{method: gradient}}
  selection: {{rule: worst, fraction: 0.5}}
  retraining: {{epochs: 2, batch_size: {BATCH_SIZE}}}
sweep:
  list:
    - {{arm: none, augmentation: {{rule: none}}}}
    - {{arm: same compute as append, augmentation: {{rule: same_compute, mode: append}}}}
    - {{arm: same compute as replace, augmentation: {{rule: same_compute, mode: replace}}}}
    - {{arm: append, augmentation: {{rule: replace_top, mode: append}}}}
    - {{arm: replace, augmentation: {{rule: replace_top, mode: replace}}}}
    - {{arm: random, augmentation: {{rule: replace_random, mode: append, value: max}}}}
    - {{arm: bottom, augmentation: {{rule: replace_bottom, mode: append, value: max}}}}
    - {{arm: top, augmentation: {{rule: replace_top, mode: append, value: max}}}}
    - {{arm: grafted, augmentation: {{rule: replace_top, mode: replace, value: max, graft: true}}}}
    - {{arm: from scratch, augmentation: {{rule: replace_top, mode: append}}, retraining: {{start: scratch}}}}
    - {{arm: two rounds, rounds: 2, augmentation: {{rule: replace_top, mode: append}}}}
    - {{arm: scheduled, schedule: [1, p, 2, p, 1], augmentation: {{rule: replace_top, mode: append}}}}
    - {{arm: split anew, rounds: 2, augmentation: {{rule: replace_top, mode: append}}, legacy: {{resplit: true}}}}
    - {{arm: dead proxies, augmentation: {{rule: replace_top, mode: append}}, legacy: {{dead_proxies: true}}}}
    - {{arm: nothing selected, selection: {{rule: misclassified}}, augmentation: {{rule: replace_top, mode: replace}},
        data: {{num_train: 20}}, pretraining: {{epochs: 200}}}}
    - {{arm: removed, selection: {{rule: all, held_out_too: true}}, target: {{target: predicted}}, evaluation: {{replaced: true}},
        augmentation: {{rule: replace_top, mode: replace, value: max}}, retraining: {{start: scratch}}}}
    - {{arm: explained, augmentation: {{rule: none}}, evaluation: {{metrics: [accuracy, completeness_error, removal_curve, deletion_auc],
        num_explained: {NUM_EXPLAINED}}}}}
    - {{arm: explained by chance, augmentation: {{rule: none}}, attribution: {{method: random}},
        evaluation: {{metrics: [accuracy, deletion_auc], num_explained: {NUM_EXPLAINED}}}}}
table: {{control: none, audit: true}}
"""


class Finished:
    """The artifacts of all runs."""

    def __init__(self, plan: Plan, store: Store, runs: tuple[Run, ...]) -> None:
        self.plan, self.store = plan, store
        self.steps = {step.name: step for step in plan.steps}
        lasts = [run["step"] for run in plan.facts["identity"]["runs"]]
        self.last = {run.arm: self.steps[name] for run, name in zip(runs, lasts, strict=True)}

    def chain(self, arm: str) -> list[PlannedStep]:
        """All steps of an arm, inputs first."""
        found: dict[str, PlannedStep] = {}

        def visit(step: PlannedStep) -> None:
            for name in step.inputs.values():
                visit(self.steps[name])
            found[step.name] = step

        visit(self.last[arm])
        return list(found.values())

    def folder(self, arm: str, stage: str, round_number: int | None = None) -> Path:
        """The artifact of an arm's stage, of the last round unless another is asked for."""
        steps = [step for step in self.chain(arm) if step.stage == stage and round_number in (None, step.round)]
        return self.store.folder(steps[-1].name)

    def metrics(self, arm: str, stage: str, round_number: int | None = None) -> dict[str, float]:
        return json.loads((self.folder(arm, stage, round_number) / "record.json").read_text())["metrics"]

    def made(self, arm: str, round_number: int | None = None) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """(columns of the table of made samples, the samples)."""
        folder = self.folder(arm, "augment", round_number)
        table = read_table(folder / "augmented.parquet", AUGMENTED)
        return {name: table[name].to_numpy() for name in table.column_names}, read_array(folder / "samples.npy")

    def prepared(self, arm: str = "none") -> Prepared:
        return Prepared(self.folder(arm, "prepare"))


def run_all(folder: Path, text: str) -> Finished:
    """Run an experiment in this process."""
    path = folder / "stages.yaml"
    path.write_text(text)
    experiment, store = load_experiment(str(path)), Store(folder / "store")
    plan = make_plan(experiment, store)
    for step in plan.steps:
        assert run_task(Task(plan=plan, store=store, step=step, data_root=folder, wait_s=0)) == DONE, step
    return Finished(plan, store, experiment.runs)
