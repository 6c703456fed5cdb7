"""The local back-end starts a step as soon as its own inputs are there, and not when a whole stage is."""

from jobs.experiment import load_experiment
from jobs.local import LocalSweep
from jobs.machine import Machine
from jobs.planning import environment, make_plan
from pipeline.core.store import Store
from tests.jobs.support import tiny_base, write_experiment


class Diary:
    """A view that remembers what began and ended, in order."""

    def __init__(self):
        self.entries = []

    def began(self, step):
        self.entries.append(("began", step.name))

    def progressed(self, step, event): ...

    def ended(self, step, outcome):
        self.entries.append((outcome, step.name))

    def tick(self): ...


def test_a_short_run_is_evaluated_while_a_long_one_still_trains(tmp_path):
    arms = [{"arm": "long", "pretraining": {"epochs": 400}}, {"arm": "short", "pretraining": {"epochs": 1}}]
    path = write_experiment(tmp_path, sweep={"list": arms}, base=tiny_base(augmentation={"rule": "none"}), table={})
    store, diary = Store(tmp_path / "store"), Diary()
    plan = make_plan(load_experiment(str(path)), store)
    long, short = (run["step"] for run in plan.facts["identity"]["runs"])
    training = {step.name: step.inputs["model"] for step in plan.steps if step.name in (long, short)}

    sweep = LocalSweep(plan, store, environment=environment(plan, store, data_root=tmp_path), view=diary, machine=Machine(cores=2, gpus=[]))

    assert sweep.run().exit_code == 0
    assert diary.entries.index(("done", training[short])) < diary.entries.index(("began", short))
    assert diary.entries.index(("done", short)) < diary.entries.index(("done", training[long]))
