"""The journal of a submission, whose writer may be killed at any byte."""

from jobs.journal import Journal, journals
from tests.jobs.recording import study


def test_a_line_cut_short_at_any_byte_is_no_entry_and_spoils_no_later_one(tmp_path):
    plan = study(tmp_path)
    (plan.folder / "submissions").mkdir()
    journal = Journal.new(plan)
    journal.write(array="prepare-0", job="10", elements={"prepare/aa": "10_0", "prepare/bb": "10_1"})
    before = journal.path.stat().st_size
    journal.write(array="retrain-0", job="11", elements={"retrain/cc": "11_0"})
    whole = journal.path.read_bytes()
    for size in range(before, len(whole) - 1):  # With all but its line end, a line is whole.
        journal.path.write_bytes(whole[:size])
        assert journal.jobs() == {"prepare-0": "10"}
        journal.write(state="cancelled")
        assert (journal.jobs(), journal.state) == ({"prepare-0": "10"}, "cancelled")
    assert [found.path for found in journals(plan)] == [journal.path]


def test_entries_come_back_as_they_were_written(tmp_path):
    plan = study(tmp_path)
    (plan.folder / "submissions").mkdir()
    journal = Journal.new(plan)
    entries = [{"state": "submitting"}, {"array": "a b\n{}", "job": None}, {"array": "a b\n{}", "job": "7", "elements": {"s/k": "7_0"}}]
    for entry in entries:
        journal.write(**entry)
    assert (journal.entries(), journal.elements(), journal.state) == (entries, {"s/k": "7_0"}, "submitting")
