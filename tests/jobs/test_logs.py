"""Logs of a step, of a run, and followed as they grow."""

import json
import shutil
from pathlib import Path

import pytest

from jobs.journal import Journal
from jobs.logs import find_logs, follow
from jobs.planning import find_plan
from pipeline.core.settings import SettingsError
from pipeline.core.store import Store
from tests.jobs.support import attrain

CHAIN = ["prepare", "pretrain", "attribute", "augment", "retrain", "evaluate"]


def test_the_logs_of_a_run_are_those_of_its_steps_in_order(undisturbed):
    shown = attrain("logs", "top/seed=1", store=undisturbed).stdout.splitlines()
    assert [Path(line).parent.name for line in shown if line.startswith("==> ")] == CHAIN
    assert [line.split("/")[0] for line in shown if line.endswith(" is done")] == CHAIN


def test_following_what_has_ended_shows_the_same_and_ends(undisturbed):
    followed = attrain("logs", "top/seed=1", "--follow", store=undisturbed)
    assert (followed.returncode, followed.stderr) == (0, "")
    assert followed.stdout == attrain("logs", "top/seed=1", store=undisturbed).stdout


def test_the_steps_of_a_run_that_have_not_run_are_named(finished):
    store = Store(finished)
    plan = find_plan("tiny", store)
    last = find_logs("top/seed=1", None, store).steps[-1]
    plan.log(last).unlink()
    shown = attrain("logs", "top/seed=1", store=finished)
    assert shown.returncode == 0
    assert shown.stdout.splitlines()[-1] == f"{last.stage}-{last.index} ({last.name}) has not run yet"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("top/seed=9", r"no step or run 'top/seed=9' in tiny-\w+; .*and 6 runs such as top/seed=\d"),
        ("retrain-4", r"there are prepare-0, pretrain-0 to pretrain-1, .*retrain-0 to retrain-3, and 6 runs such as plain/seed=0, "),
    ],
)
def test_what_there_is_instead_is_said(undisturbed, given, words):
    with pytest.raises(SettingsError, match=words):
        find_logs(given, None, Store(undisturbed))


def test_an_element_of_submitits_has_its_own_logs_only(finished):
    """submitit's names end with the rank: 2_2_0 is rank 0 of element 2_2, and not element 2_0."""
    store = Store(finished)
    plan = find_plan("tiny", store)
    steps = [f"retrain-{index}" for index in range(3)]
    names = [find_logs(step, None, store).steps[0].name for step in steps]
    Journal.new(plan).write(array="retrain-1", job="2", elements={name: f"2_{index}" for index, name in enumerate(names)})
    for index in range(3):
        (plan.folder / "submitit" / f"2_{index}").mkdir(parents=True)
        (plan.folder / "submitit" / f"2_{index}" / f"2_{index}_0_log.out").write_text("")
    logs = [[path.name for path in find_logs(step, None, store).logs() if path.suffix == ".out"] for step in steps]
    assert logs == [[f"2_{index}_0_log.out"] for index in range(3)]


def test_followed_logs_grow_by_whole_lines_until_the_step_has_ended(finished):
    """The step's process is played by this one, between two looks at the log."""
    store = Store(finished)
    wanted = find_logs("evaluate-0", None, store)
    (step,) = wanted.steps
    shutil.rmtree(store.folder(step.name))
    log = wanted.plan.log(step)
    log.write_text("one\ntwo\nthree\n")
    additions = ["fo", "ur\nfive\n", "", "end without a line break"]
    with store.attempt(step.name) as attempt:

        def pause(seconds: float) -> None:
            """What is written while the follower waits; with nothing left to write the step fails."""
            if additions:
                with log.open("a") as file:
                    file.write(additions.pop(0))
            else:
                failure = {"exit_code": 1, "error": "broken", "job": None, "host": "here"}
                (attempt.folder / "failure.json").write_text(json.dumps(failure))
                (attempt.folder / "owner.json").unlink(missing_ok=True)

        told = list(follow(wanted, store, lines=2, pause=pause))
    assert told == [(log, "two\nthree"), (log, "four\nfive"), (log, "end without a line break")]
