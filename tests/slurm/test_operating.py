"""`attrain status` and `attrain logs` on a sweep that is on its way, of which an element is requeued; and what it used in the end."""

import contextlib
import re
import signal

import pytest

from tests.slurm.conftest import WAIT_S

pytestmark = pytest.mark.slurm

EXPERIMENT = """
experiment: watched
base:
  data: {dataset: mnist_small, num_train: 400, num_test: 100}
  model: {model: small_cnn}
  pretraining: {epochs: 40}
sweep: {list: [{arm: plain pictures}], seed: [0, 1]}
resources: {pretrain: {memory_gb: 2}}
"""
RUN = "plain pictures/seed=0"


@pytest.fixture(scope="module")
def watched(new_user, cluster, closed):
    """Who submitted the sweep and requeued an element; what was printed, from before it began to after its end."""
    user = new_user()
    path = user.store.parent / "watched.yaml"
    path.write_text(EXPERIMENT)
    with contextlib.ExitStack() as stack:

        def start(*arguments, **options):
            process = user.start(*arguments, **options)
            stack.callback(process.communicate)
            stack.callback(process.kill)
            return process

        with closed():
            user.attrain("submit", str(path))
            printed = {}
            cluster.wait_until(lambda: seen_queued(user, printed))
            shown = user.store.parent / "watch"
            watch = start("status", "--watch", "--every=1", stdout=stack.enter_context(shown.open("w")))
            follow = start("logs", "--follow", RUN)
            printed["interrupted"] = interrupt(start("status", "--watch", "--every=1"))
            cluster.wait_until(shown.read_text)
        requeue(user, cluster, closed, printed)
        user.wait("watched")
        printed["follow"], _ = follow.communicate(timeout=WAIT_S)
        assert (follow.returncode, watch.wait(timeout=WAIT_S)) == (0, 0), printed["follow"]
        printed["watch"] = shown.read_text()
    return user, printed


def seen_queued(user, printed):
    """What is shown of a submission, once the scheduler has looked at it."""
    printed["submitted"] = user.attrain("status", "watched")
    return "(None)" not in printed["submitted"]


def interrupt(process):
    """'CODE: what it printed besides' of a process that gets an interrupt once it has shown something."""
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=WAIT_S)
    return f"{process.returncode}: {printed}"


def requeue(user, cluster, closed, printed):
    """Requeue an element at work; what is shown while it waits, and when it runs again."""

    def see(state):
        # The accounting hears of a requeue a moment later.
        printed[state] = user.attrain("status", "--by=run", "watched")
        return re.search(f"pretrain-0 {state}.* 2nd attempt after a requeue", printed[state])

    # SLURM says that it runs before its step has begun: requeued then, it would have no first attempt.
    with user.frozen("pretrain", 2), closed():
        cluster.run("scontrol", "requeue", f"{user.submissions('watched')[0]['pretrain-0']}_0")
        cluster.wait_until(lambda: see("queued"))
        cluster.wait_until(lambda: "2nd attempt" in (user.store.parent / "watch").read_text())
    with user.frozen("pretrain", attempt=2):
        cluster.wait_until(lambda: see("running"))


def test_what_is_queued_says_why_in_words(watched):
    _, printed = watched
    assert "queued  1 step: its partition does not start jobs at present (PartitionDown)" in printed["submitted"]
    assert "waiting  4 steps: for its inputs" in printed["submitted"]


def test_a_requeued_element_says_so_by_run_until_it_ends(watched):
    _, printed = watched
    line = re.search(f"^{RUN}  (.*)$", printed["queued"], re.MULTILINE).group(1)
    assert re.match("1 of 3 done, pretrain-0 queued: .* .\\w+., 2nd attempt after a requeue ", line), line
    line = re.search(f"^{RUN}  (.*)$", printed["running"], re.MULTILINE).group(1)
    assert re.match("1 of 3 done, pretrain-0 running.* 2nd attempt after a requeue .*, 1 waiting$", line), line


def test_watching_shows_each_change_once_and_ends_with_the_sweep(watched):
    _, printed = watched
    headings = re.findall(r"watched-\w+: (\d) of 5 steps done", printed["watch"])
    assert (headings[0], headings[-1]) == ("0", "5")
    assert headings == sorted(headings)
    assert "2nd attempt" in printed["watch"]


def test_watching_ends_without_a_word_on_an_interrupt(watched):
    _, printed = watched
    code, _, rest = printed["interrupted"].partition(": ")
    assert code == "130"
    assert "Traceback" not in rest
    assert "Aborted" not in rest


def test_the_followed_logs_of_a_run_go_on_over_the_requeue(watched):
    user, printed = watched
    followed, shown = printed["follow"], user.attrain("logs", RUN, "--lines=1000")
    assert re.findall(r"(\w+)/\w+ is done", followed) == ["prepare", "pretrain", "evaluate"]
    assert re.findall(r"(\w+)/\w+ is done", shown) == ["prepare", "pretrain", "evaluate"]
    told = [line for line in shown.splitlines() if not line.startswith("==>")]
    assert sorted(told) == sorted(line for line in followed.splitlines() if not line.startswith("==>"))


def test_the_usage_comes_from_the_accounting_by_stage_and_by_run(watched):
    user, _ = watched
    by_stage, by_run = user.attrain("status", "--usage", "watched"), user.attrain("status", "--usage", "--by=run", "watched")
    assert "5 steps from SLURM's accounting, over all attempts" in by_stage
    row = re.search(r"^pretrain +2 of 2 +([\d.]+) s +(\d+) % +([\d.]+) +2 *$", by_stage, re.MULTILINE)
    assert row, by_stage
    assert float(row.group(1)) > 0
    assert 1 <= int(row.group(2)) <= 200  # It stood still for a while.
    assert 0.05 < float(row.group(3)) < 2
    assert "pretrain: memory: asked 2 GiB a node, used at most " in by_stage
    assert len(re.findall(r"^plain pictures/seed=\d +3 of 3 ", by_run, re.MULTILINE)) == 2


def test_the_tables_hold_what_a_run_used(watched):
    import pandas as pd

    user, _ = watched
    user.attrain("collect", "watched")
    folder = user.store / "results" / "watched"
    runs, text = pd.read_parquet(folder / "results.parquet"), pd.read_csv(folder / "results.csv")
    used = ["cost.cpu_efficiency", "cost.max_memory_mb"]
    pd.testing.assert_frame_equal(text[used], runs[used])
    assert runs["cost.cpu_efficiency"].between(0.01, 2).all()
    assert (runs["cost.max_memory_mb"] > 50).all()
    assert "cost.gpu_utilisation" not in runs
