"""What the doctor says of disks, settings and nodes: good is good, and what is not comes with what to do."""

import fcntl
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.doctor import cluster, disk, nodes, probe
from jobs.doctor.finding import Finding
from jobs.limits import Bound, Limits, Partition
from jobs.resources import Cluster
from tests.jobs.support import attrain


def grades(findings):
    return {finding.what.removeprefix("SLURM: "): finding.grade for finding in findings}


GOOD = {
    "AccountingStorageType": "accounting_storage/slurmdbd",
    "AuthInfo": "cred_expire=5",
    "JobRequeue": "1",
    "KillWait": "30 sec",
    "MinJobAge": "300 sec",
    "PreemptMode": "REQUEUE",
    "PreemptType": "preempt/partition_prio",
    "ProctrackType": "proctrack/cgroup",
    "PreemptParameters": "send_user_signal",
}
NOTED = [
    ({"AccountingStorageType": "accounting_storage/none"}, "accounting", "slurmdbd"),
    ({"KillWait": "5 sec"}, "KillWait", "checkpoint"),
    ({"MinJobAge": "20 sec"}, "MinJobAge", "ask for 300 s"),
    ({"PreemptMode": "CANCEL"}, "preemption", "attrain retry"),
    ({"PreemptMode": "GANG,CANCEL"}, "preemption", "PreemptMode=REQUEUE"),
    ({"PreemptParameters": "(null)"}, "signal at preemption", "preempt_send_user_signal"),
    ({"MaxBatchRequeue": "1"}, "MaxBatchRequeue", "scontrol release"),
    ({"AuthInfo": "cred_expire=600,socket=/run/munge"}, "wait after a requeue", "cred_expire"),
    ({"JobSubmitPlugins": "lua"}, "JobSubmitPlugins", "--dry-run"),
    ({"ProctrackType": "proctrack/linuxproc"}, "ProctrackType", "proctrack/cgroup"),
]
FINE = [
    {},
    {"PreemptType": "preempt/none", "PreemptMode": "OFF", "PreemptParameters": "(null)"},
    {"PreemptParameters": "(null)", "SlurmctldParameters": "preempt_send_user_signal"},
    {"JobRequeue": "0"},  # Tasks ask for --requeue themselves.
    {"DependencyParameters": "kill_invalid_depend"},
    {"AuthInfo": "(null)"},  # 120 s
    {"MaxBatchRequeue": "5"},
]


@pytest.mark.parametrize(("changed", "what", "words"), NOTED, ids=lambda value: value if isinstance(value, str) else None)
def test_a_setting_that_costs_something_is_noted_with_what_to_ask_for(changed, what, words):
    found = [finding for finding in cluster.of_settings(GOOD | changed) if finding.grade != "ok"]
    assert grades(found) == {what: "note"}
    assert words in found[0].advice


@pytest.mark.parametrize("changed", FINE, ids=str)
def test_a_setting_that_costs_nothing_is_fine(changed):
    assert set(grades(cluster.of_settings(GOOD | changed)).values()) == {"ok"}


def test_arrays_of_fewer_elements_than_a_sweep_has_are_no_trouble():
    """A submission cuts its arrays to the cluster's size."""
    finding, *_ = cluster.of_limits(Limits(elements=(Bound(50, "MaxArraySize of the cluster"),)), {})
    assert (finding.found, finding.grade) == ("50: larger arrays are cut", "ok")


def test_limits_that_a_large_sweep_would_meet_are_noted():
    limits = Limits(
        submitted=(Bound(10_000, "MaxJobCount of the cluster"), Bound(1000, "MaxSubmitJobs of account lab")),
        running=(Bound(50, "MaxJobs of account lab"),),
        num_queued=3,
    )
    found = list(cluster.of_limits(limits, {"AccountingStorageEnforce": "associations,limits"}))
    assert [finding.grade for finding in found] == ["ok", "note", "note", "ok"]
    assert found[1].found == "1,000 elements may be submitted, 3 of yours are"
    assert "steps_per_task" in found[1].advice
    assert "max_parallel_tasks above 50" in found[2].advice
    assert found[3].found == "enforced; all that are set stand above"


def partition(name="main", **given):
    plain = {"state": "UP", "is_default": True, "time_min": None, "nodes": None, "grace_s": 30, "preempt_mode": "REQUEUE", "qos": None}
    return Partition(name=name, **plain | given)


PARTITIONS = [
    ([partition()], None, {"partition": "ok", "partition runs jobs": "ok", "GraceTime": "ok"}),
    ([partition(grace_s=0)], None, {"partition": "ok", "partition runs jobs": "ok", "GraceTime": "note"}),
    ([partition(grace_s=0, preempt_mode="OFF")], None, {"partition": "ok", "partition runs jobs": "ok", "GraceTime": "ok"}),
    ([partition(state="DOWN")], None, {"partition": "ok", "partition runs jobs": "note", "GraceTime": "ok"}),
    ([partition(state="DRAIN")], None, {"partition": "bad", "partition runs jobs": "note", "GraceTime": "ok"}),
    ([partition(is_default=False)], None, {"partition": "bad", "GraceTime": "ok"}),
    ([partition(is_default=False)], "main", {"partition": "ok", "partition runs jobs": "ok", "GraceTime": "ok"}),
    ([partition()], "gpu", {"partition": "bad", "GraceTime": "ok"}),
]


@pytest.mark.parametrize(("partitions", "name", "expected"), PARTITIONS)
def test_the_partition_that_jobs_would_go_to_is_looked_at(partitions, name, expected):
    assert grades(cluster.of_partitions({one.name: one for one in partitions}, GOOD, name)) == expected


def test_names_that_do_not_resolve_are_named(monkeypatch):
    def look_up(name, port):
        if name != "node1":
            raise socket.gaierror("unknown")
        return [name]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert cluster._names(["node1", "node1"]).grade == "ok"
    assert "node2" in cluster._names(["node1", "node2"]).advice


def test_a_local_disk_is_good_and_nothing_is_left_on_it(tmp_path):
    tmp_path.chmod(0o700)
    found = list(disk.examine(tmp_path))
    assert {finding.what.removeprefix("store: ") for finding in found} >= {"rename", "create", "sync", "lock", "clock", "space", "files"}
    assert [finding for finding in found if finding.grade == "bad"] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("mode", "grade"), [(0o700, "ok"), (0o755, "note"), (0o770, "bad"), (0o777, "bad"), (0o2770, "ok"), (0o2775, "note")]
)
def test_a_store_is_its_owners_alone_or_its_groups(tmp_path, mode, grade):
    tmp_path.chmod(mode)
    finding = disk._mode(tmp_path)
    assert finding.grade == grade
    assert grade == "ok" or f" {tmp_path}`" in finding.advice


def statvfs(*, gib, files, all_files=10**6):
    block = 4096
    return os.statvfs_result((block, block, 10**9, 0, int(gib * 2**30 / block), all_files, 0, files, 0, 255))


@pytest.mark.parametrize(
    ("free", "expected"),
    [
        (statvfs(gib=100, files=10**6), ["ok", "ok"]),
        (statvfs(gib=3, files=50_000), ["note", "note"]),
        (statvfs(gib=0.5, files=10), ["bad", "bad"]),
        (statvfs(gib=100, files=0, all_files=0), ["ok", "ok"]),
    ],
)
def test_space_is_bytes_and_files(free, expected):
    assert [finding.grade for finding in disk.space(free)] == expected


def overwrite(self, target):
    for path in target.iterdir():
        path.unlink()
    target.rmdir()
    os.rename(self, target)  # noqa: PTH104


BROKEN = {
    "rename": (Path, "rename", overwrite, "bad", "sometimes overwritten"),
    "lock": (fcntl, "flock", lambda *_: None, "note", "given to another"),
    "create": (Path, "open", lambda self, *_: open(os.devnull), "bad", "of 8 at once, 8 create a file"),  # noqa: SIM115, PTH123
    "sync": (os, "fsync", lambda _: (_ for _ in ()).throw(OSError(5, "Input/output error")), "bad", "Input/output error"),
}


@pytest.mark.parametrize("test", BROKEN)
def test_a_disk_that_does_not_keep_its_word_is_found_out(tmp_path, monkeypatch, test):
    owner, name, broken, grade, words = BROKEN[test]
    work = {"rename": disk._renames, "lock": disk._locks, "create": disk._creates, "sync": disk._syncs}[test]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, broken)
        finding = disk._tested(test, tmp_path, work)
    assert (finding.what, finding.grade) == (test, grade)
    assert words in finding.found


def test_a_clock_that_is_off_is_noted(tmp_path, monkeypatch):
    monkeypatch.setattr(disk.time, "time", lambda: os.stat(tmp_path).st_mtime - 3600)  # noqa: PTH116
    finding = disk._clock("clock", tmp_path)
    assert finding.grade == "note"
    assert finding.found.startswith("+360")


def answer(folder, **changed):
    seen = {"host": "n2", "node": "node2", "python": "3.11.2", "rounds_s": [0.1, 0.04], "unknown": [], "code": True}
    return seen | {"store": str(folder), "time": disk.time.time()} | changed


NODES = [
    ({}, {}),
    ({"store": "/elsewhere"}, {"path of the store": "note"}),
    ({"code": False}, {"path of the code": "note"}),
    ({"rounds_s": [0.1, 30.0]}, {"visibility lag": "note"}),
    ({"rounds_s": []}, {"visibility lag": "bad"}),
    ({"unknown": ["node1"]}, {"names of nodes": "bad"}),
    ({"time": 0.0}, {"clock": "note"}),
]


@pytest.mark.parametrize(("changed", "expected"), NODES)
def test_what_a_node_says_is_judged(tmp_path, changed, expected):
    found = list(nodes.told(answer(tmp_path, **changed), tmp_path / ".doctor-x"))
    assert len(found) == 6
    assert {finding.what.removeprefix("nodes: "): finding.grade for finding in found if finding.grade != "ok"} == expected


def test_a_job_that_says_nothing_is_bad_and_its_last_line_is_shown(tmp_path):
    (tmp_path / "log").write_text("trying\n/env/bin/python: No such file or directory\n")
    (finding,) = nodes.told("it ended (FAILED), but nothing of it is seen here", tmp_path)
    assert finding.grade == "bad"
    assert finding.found == "it ended (FAILED), but nothing of it is seen here; /env/bin/python: No such file or directory"


def test_the_small_job_goes_to_another_node_than_this_one(monkeypatch, tmp_path):
    monkeypatch.setattr(socket, "gethostname", lambda: "node1.cluster")
    asked = Cluster(partition="short", account="lab")
    options = nodes.command(tmp_path, asked, ["node1", "node2"])
    assert {"--exclude=node1", "--partition=short", "--account=lab"} <= set(options)
    assert not any(option.startswith("--exclude") for option in nodes.command(tmp_path, asked, ["node2", "node3"]))


def test_the_probe_needs_nothing_but_python(tmp_path):
    (tmp_path / "asked.json").write_text(json.dumps({"nodes": ["localhost", "no.such.name.invalid"], "code": str(tmp_path)}))
    for number in range(probe.NUM_ROUNDS):
        (tmp_path / f"pong-{number}").write_text("pong")
    command = [sys.executable, "-I", "-S", probe.__file__, str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env={}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert (len(seen["rounds_s"]), seen["unknown"], seen["code"]) == (probe.NUM_ROUNDS, ["no.such.name.invalid"], True)
    assert all((tmp_path / f"ping-{number}").exists() for number in range(probe.NUM_ROUNDS))


def test_json_has_a_line_a_finding(tmp_path):
    done = attrain("doctor", "--json", store=tmp_path / "store")
    findings = [Finding(**json.loads(line)) for line in done.stdout.splitlines()]
    assert {"python", "store", "store: rename", "data root"} <= {finding.what for finding in findings}
    assert done.returncode == any(finding.grade == "bad" for finding in findings)


def test_a_store_that_can_not_be_written_is_bad_and_the_rest_is_looked_at(tmp_path):
    (tmp_path / "file").write_text("")
    done = attrain("doctor", store=tmp_path / "file" / "store")
    assert done.returncode == 1
    assert f"BAD  store: {tmp_path}" in done.stdout
    assert "SLURM" in done.stdout
