"""What stage.sbatch does with signals and with how its steps end."""

import os
import subprocess
from pathlib import Path

from tests.jobs.recording import check_recorded

STAGE = Path(__file__).parents[2] / "sbatch" / "stage.sbatch"
CALLS = """#!/bin/bash
program=$(basename "$0")
echo "$program $*" >>"$CALLS"
case $program in
srun)
  for signal in $SIGNALS; do kill -s "$signal" $PPID; sleep 0.3; done
  while [ $# -gt 0 ]; do
    case $1 in
    --stop-file) [ -e "$2" ] && echo "told to stop: $(cat "$2")" >>"$CALLS" ;;
    --code-file) [ -n "$TOLD" ] && echo "$TOLD" >"$2" ;;
    esac
    shift
  done
  exit "$STEP_CODE" ;;
scontrol) echo "   PreemptEligibleTime=2026-01-01T00:00:00 PreemptTime=$PREEMPTED" ;;
python) exit "$CHECK_CODE" ;;
esac
"""
"""Stands for srun, scontrol and python: notes how it was called."""

CASES = {
    "done": {"TOLD": "0"},
    "done, says srun, and there is a record": {},
    "done, says srun, but there is no record": {"CHECK_CODE": "1"},
    "failed": {"STEP_CODE": "1"},
    "an input is missing": {"STEP_CODE": "69"},
    "told to stop before the time limit": {"STEP_CODE": "75", "SIGNALS": "USR2"},
    "told to stop, the last ranks to end killed by srun": {"STEP_CODE": "143", "TOLD": "75", "SIGNALS": "USR2"},
    "bad settings, the last ranks to end killed by srun": {"STEP_CODE": "143", "TOLD": "78"},
    "preempted": {"STEP_CODE": "75", "SIGNALS": "USR2", "PREEMPTED": "2026-01-01T00:00:00"},
    "preempted without grace": {"STEP_CODE": "75", "SIGNALS": "USR2 TERM", "PREEMPTED": "2026-01-01T00:00:00"},
    "stopped by itself": {"STEP_CODE": "75"},
    "cancelled": {"STEP_CODE": "75", "SIGNALS": "TERM"},
    "several steps": {"TOLD": "0", "COUNT": "2"},
    "the last of several steps": {"TOLD": "0", "COUNT": "2", "LAST": "1006"},
    "a prolog that fails": {"PROLOG": "false"},
    "a prolog": {"PROLOG": "echo with prolog >>$CALLS", "TOLD": "0"},
}


def told_of(case: str, folder: Path) -> str:
    """All calls that the script made, and how it ended."""
    programs, plan, calls = folder / "bin", folder / "a plan's folder", folder / "calls"
    calls.write_text("")
    given = CASES[case]
    prolog = "-"
    if "PROLOG" in given:
        prolog = str(folder / "prolog's file")
        Path(prolog).write_text(f"{given['PROLOG']} || return 1\n")
    env = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "CALLS": str(calls),
        "SIGNALS": "",
        "STEP_CODE": "0",
        "CHECK_CODE": "0",
        "PREEMPTED": "None",
        "TOLD": "",
        "SLURM_ARRAY_JOB_ID": "42",
        "SLURM_ARRAY_TASK_ID": "3",
        "SLURM_JOB_ID": "45",
        "SLURM_NTASKS": "8",
        "SLURM_CPUS_PER_TASK": "2",
        **given,
    }
    numbers = ["1000", given.get("LAST", "1999"), given.get("COUNT", "1")]
    command = ["bash", STAGE, str(plan), "retrain", *numbers, prolog, str(programs / "python"), "-m", "jobs"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return f"{case}\n{calls.read_text()}exit {done.returncode}\n".replace(str(programs), "BIN").replace(str(plan), "PLAN")


def test_the_batch_script_does_what_is_recorded(tmp_path):
    (tmp_path / "bin").mkdir()
    for name in ("srun", "scontrol", "python"):
        (tmp_path / "bin" / name).write_text(CALLS)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "a plan's folder" / "submissions").mkdir(parents=True)

    check_recorded("stage.txt", "\n".join(told_of(case, tmp_path) for case in CASES))

    assert list((tmp_path / "a plan's folder" / "submissions").iterdir()) == []
