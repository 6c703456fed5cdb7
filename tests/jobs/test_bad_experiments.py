"""A wrong experiment file: the command names what is wrong and changes nothing, and with the file put right it continues."""

import shutil

import pytest

from tests.jobs.support import TINY, assert_equal_tables, submit, tiny_base, write_experiment
from tests.support import files

WRONG = {
    "an unknown field": ({"base": tiny_base(retraining={"epoch": 2})}, "base.retraining: unknown field 'epoch' (nearest: epochs; valid: "),
    "a wrong type": ({"base": tiny_base(retraining={"epochs": "2"})}, "base.retraining.epochs: Input should be a valid integer, got '2'"),
    "a value out of range": (
        {"base": tiny_base(selection={"rule": "worst", "fraction": 1.5})},
        "base.selection.fraction: Input should be less than or equal to 1, got 1.5",
    ),
    "an unknown method": (
        {"base": tiny_base(attribution={"method": "gradients"})},
        "base.attribution: unknown method 'gradients' (nearest: gradient; valid: ",
    ),
    "a sweep of no runs": ({"sweep": TINY["sweep"] | {"seed": []}}, "sweep has no runs; give each swept field at least one value"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_file_is_named_and_changes_nothing_and_put_right_the_same_command_continues(undisturbed, finished, tmp_path, what):
    changes, message = WRONG[what]
    for part in ("evaluate", "results"):
        shutil.rmtree(finished / part)
    before = files(finished)

    refused = submit(write_experiment(tmp_path, **changes), store=finished)

    assert (refused.returncode, refused.stdout) == (78, "")
    assert refused.stderr.startswith("error: tiny.yaml: ")
    assert message in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert files(finished) == before

    done = submit(write_experiment(tmp_path), store=finished)

    assert done.returncode == 0, done.stdout + done.stderr
    assert " 6 to run" in done.stdout
    assert_equal_tables(finished, undisturbed)
