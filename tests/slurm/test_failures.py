"""One failed element among 24."""

import pytest

pytestmark = pytest.mark.slurm

NUM_RUNS = 24
"""Of an array's dependencies SLURM 22.05 judges those of elements beyond the tenth otherwise (jobs/slurm.py)."""
FAILING, HEALTHY = 7, 8
"""Seeds of the two runs that have all stages; the learning rate of the first makes the loss infinite."""
EXPERIMENT = f"""
experiment: many
base:
  data: {{dataset: mnist_small, num_train: 100, num_test: 100}}
  model: {{model: mlp}}
  pretraining: {{epochs: 1}}
  retraining: {{epochs: 1}}
  attribution: {{method: gradient}}
  selection: {{rule: all}}
sweep:
  list:
    - {{arm: failing, seed: {FAILING}, pretraining: {{learning_rate: 1.0e+30}}, augmentation: {{rule: replace_top}}}}
    - {{arm: healthy, seed: {HEALTHY}, augmentation: {{rule: replace_top}}}}
""" + "".join(f"    - {{arm: plain, seed: {seed}}}\n" for seed in range(NUM_RUNS) if seed not in (FAILING, HEALTHY))
CHAIN = ("attribute", "augment", "retrain", "evaluate")


@pytest.fixture(scope="module", params=["slurm", "submitit"])
def many(request, new_user):
    """Who ran the sweep, when all of it has ended; the states of its jobs by 'A_t'."""
    user = new_user()
    path = user.store.parent / "many.yaml"
    path.write_text(EXPERIMENT)
    user.attrain("submit", str(path), f"--backend={request.param}")
    return user, user.wait("many")


def test_all_others_of_the_array_finish(many):
    user, _ = many
    states = user.states("many", code=1)

    assert states["pretrain"] == {"done": NUM_RUNS - 1, "failed": 1}
    assert states["evaluate"] == {"done": NUM_RUNS - 1, "blocked": 1}


def test_only_what_needs_the_failed_step_is_blocked_and_says_so(many):
    user, _ = many
    reasons = user.reasons("many", code=1)
    failed = [name for name, (state, _) in reasons.items() if state == "failed"]
    blocked = {name: reason for name, (state, reason) in reasons.items() if state == "blocked"}

    assert len(failed) == 1
    assert "NonFiniteLossError" in reasons[failed[0]][1]
    assert sorted(name.split("-")[0] for name in blocked) == sorted(CHAIN)
    assert {reason.split("/")[0] for reason in blocked.values()} == {"needs pretrain"}
    assert len(reasons) == 1 + len(CHAIN)


def test_the_blocked_elements_are_ended_and_the_tables_are_collected(many, cluster):
    user, states = many
    jobs = user.submissions("many")[0]

    assert cluster.squeue() == {}
    assert sorted(states.values()).count("FAILED") == 1
    assert sorted(states.values()).count("CANCELLED") == len(CHAIN)
    assert states[jobs["collect"]] == "COMPLETED"
    assert sorted(user.results("many")["state"].str.startswith("missing: ")) == [False] * (NUM_RUNS - 1) + [True]


def test_retry_does_not_try_again_what_would_come_out_the_same(many):
    user, _ = many
    printed = user.attrain("retry", "many", code=1)

    assert "NonFiniteLossError  not run again, it would come out the same; change the settings: " in printed
    assert f"1 not run again, {len(CHAIN)} that stay blocked" in printed
    assert len(user.submissions("many")) == 1


def test_another_submission_tries_the_failed_step_and_its_descendants_only(many, cluster, closed):
    user, _ = many
    with closed():
        printed = user.attrain("submit", str(user.store.parent / "many.yaml"))
        states = user.states("many")
        queued = cluster.squeue()
        user.attrain("cancel", "many")

    assert "submitted" in printed
    assert len(queued) == 1 + len(CHAIN) + 1
    assert states["pretrain"] == {"done": NUM_RUNS - 1, "queued": 1}
    assert states["evaluate"] == {"done": NUM_RUNS - 1, "waiting": 1}
