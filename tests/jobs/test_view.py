"""What a person sees of a sweep and of its status."""

import re

import pytest
from rich.console import Console

from jobs import run
from jobs.progress import ProgressFile
from jobs.status import StepStatus
from jobs.usage import Measured, usage_table
from jobs.view import SweepView, describe, status_table
from pipeline.core.plan import Plan
from tests.jobs.recording import step

STAGES = ["prepare", "pretrain", "attribute", "augment", "retrain", "evaluate", "stage of older code"]
# As plans have them: runs without rounds are evaluated before the first round.
PLANNED = tuple(step(stage, i, array=f"{stage}-0") for i, stage in enumerate([STAGES[6], *STAGES[:2], STAGES[5], *STAGES[2:5], STAGES[5]]))


def shown(what) -> list[str]:
    """The lines that a wide terminal shows, less the blanks around them."""
    console = Console(width=200, force_terminal=True, color_system=None)
    with console.capture() as captured:
        console.print(what)
    return [line.strip() for line in captured.get().splitlines()]


def test_stages_are_shown_in_the_order_they_run(tmp_path):
    plan = Plan(tmp_path, PLANNED, {"identity": {"resources": {}, "runs": []}})
    views = {
        "live": shown(SweepView(Console(quiet=True), PLANNED, set()).progress),
        "status": shown(status_table([StepStatus(one, "planned") for one in PLANNED]))[1:],
        "usage": shown(usage_table(plan, Measured({}, "", []), by="stage"))[1:],
    }
    for name, lines in views.items():
        for line, stage in zip(lines, STAGES, strict=True):
            assert line.startswith(stage), (name, lines)


def test_the_bar_of_a_stage_that_has_not_begun_is_of_one_colour_and_stands_still():
    view = SweepView(Console(quiet=True), PLANNED, set())
    console = Console(width=80, force_terminal=True, color_system="truecolor")
    with console.capture() as captured:
        console.print(view.progress)
    first = captured.get().splitlines()[0]
    assert len(set(re.findall("\x1b\\[([0-9;]+)m[^ \x1b]", first.partition("prepare")[2].partition("0/")[0]))) == 1


def test_the_live_view_counts_a_step_once_it_is_done():
    view = SweepView(Console(quiet=True), PLANNED, {PLANNED[3].name})
    view.began(PLANNED[7])
    assert "1/2" in shown(view.progress)[5]
    view.ended(PLANNED[7], "done")
    assert "2/2" in shown(view.progress)[5]


def test_without_a_terminal_a_failure_is_told_at_once_and_no_bar_is_drawn():
    console = Console(width=200, force_terminal=False)
    with console.capture() as captured, SweepView(console, PLANNED, set()) as view:
        view.began(PLANNED[1])
        view.ended(PLANNED[1], "failed")
    assert captured.get() == f"{PLANNED[1].name} [prepare-1] failed; `attrain logs {PLANNED[1].key}` shows why\n"


def test_an_attempt_that_continues_is_not_as_fast_as_if_it_had_done_all(monkeypatch, tmp_path):
    now_s, events = [100.0], []
    monkeypatch.setattr(run.time, "monotonic", lambda: now_s[0])
    progress = ProgressFile(tmp_path / "progress.json", also=events.append)
    for done in (600, 700, 800):
        progress(done, 1000, unit="samples", loss=0.5)
        now_s[0] += 10.0
    assert describe(PLANNED[1], events[0]) == "prepare-1 600/1,000 samples, loss 0.5"
    assert describe(PLANNED[1], events[-1]) == "prepare-1 800/1,000 samples, 10/s, 20 s left, loss 0.5"


@pytest.mark.parametrize("unit", ["samples", "samples read"])
def test_other_work_of_a_step_has_a_speed_of_its_own(unit, monkeypatch, tmp_path):
    now_s, events = [100.0], []
    monkeypatch.setattr(run.time, "monotonic", lambda: now_s[0])
    progress = ProgressFile(tmp_path / "progress.json", also=events.append)
    for done, of in ((0, unit), (500, unit), (10, "samples"), (30, "samples")):
        progress(done, 500, unit=of)
        now_s[0] += 10.0
    told = [describe(PLANNED[1], event) for event in events]
    assert told[1:] == [
        f"prepare-1 500/500 {unit}, 50/s, 0 s left",
        "prepare-1 10/500 samples",
        "prepare-1 30/500 samples, 2/s, 235 s left",
    ]
