"""A sweep whose processes are killed at random moments, again and again, gives the results of an undisturbed one, bit for bit.

    python -m benchmarks.kill_campaign [--kills 100] [--seed 0] [--experiment quickstart] [--set base.data.base.num_train=400]

Runs the experiment once undisturbed. Then, in a fresh store, starts the same command again and again until it ends with 0 by
itself, while at random moments a random process of it, the command or one of its workers, gets SIGKILL or SIGTERM; in new stores
until there were enough kills. A start in which nobody was hit has to end with 0. Each store is then held against the undisturbed
one. Moments, processes and signals come from the seed; what they meet depends on how fast the machine is. Needs Linux (/proc).

Writes kills.csv (a row a kill) and summary.md. Ends with 1 if anything differs. The quickstart and 100 kills take about 20 minutes
on two cores.
"""

import argparse
import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import pandas as pd

from benchmarks.same_results import Comparison, compare
from jobs.slurm import clean_environment
from pipeline.core.store import Store

ROOT = Path(__file__).parents[1]
OUT = ROOT / "results" / "reference" / "kill_campaign"
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
MOST_STARTS_WITHOUT_A_STEP = 30
"""Starts in a row after which a sweep that finishes no step is given up."""
LEAVE_S = 60.0
"""How long workers without their command may take to leave."""


class CampaignError(RuntimeError):
    """The command did not do what it promises; there is nothing to compare."""


@dataclass(frozen=True)
class Kill:
    """One disturbance."""

    number: int
    store: int
    second: float
    """Since the store's first start."""
    target: str
    """'command', or 'worker'."""
    stage: str
    """Of the step at work; for the command those of all workers."""
    signal: str
    became: str = ""
    """What became of it."""


@dataclass(frozen=True)
class Setup:
    """What is run."""

    experiment: str
    overrides: tuple[str, ...]
    folder: Path
    """Where the stores lie."""

    def command(self) -> list[str]:
        """The command that is started again and again."""
        overrides = [part for override in self.overrides for part in ("--set", override)]
        return [sys.executable, "-m", "jobs", "submit", self.experiment, "--backend", "local", *overrides]

    def environment(self, store: Path) -> dict[str, str]:
        """Of the command, without what a surrounding job left in it."""
        kept = {name: value for name, value in clean_environment(os.environ).items() if not name.startswith("ATTRAIN_")}
        return kept | {"ATTRAIN_STORE": str(store), "ATTRAIN_DATA": os.environ.get("ATTRAIN_DATA", str(ROOT / "data"))}

    def start(self, store: Path) -> subprocess.Popen[bytes]:
        """Start the command; what it prints goes to the end of STORE.log."""
        with log_of(store).open("ab") as log:
            return subprocess.Popen(
                self.command(),
                cwd=ROOT,
                env=self.environment(store),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def log_of(store: Path) -> Path:
    """What all starts in a store printed."""
    return store.with_name(f"{store.name}.log")


@dataclass
class Moments:
    """Random moments, processes and signals, until there were enough."""

    num_kills: int
    mean_gap_s: float
    draw: random.Random
    kills: list[Kill] = field(default_factory=list)
    next_s: float = 0.0
    """By time.monotonic()."""

    def wait_for_next(self) -> None:
        """Draw the moment of the next kill."""
        self.next_s = time.monotonic() + self.draw.expovariate(1 / self.mean_gap_s)

    @property
    def due(self) -> bool:
        """Whether a kill is to happen now."""
        return len(self.kills) < self.num_kills and time.monotonic() >= self.next_s


@dataclass(frozen=True)
class Timing:
    """How long a sweep took, and beside what."""

    seconds: float
    load: float
    """Of the machine at the end of the sweep: mean of five minutes, its own included."""

    @classmethod
    def since(cls, started_s: float) -> "Timing":
        """Of a sweep that ends now and began then, by time.monotonic()."""
        return cls(time.monotonic() - started_s, os.getloadavg()[1])


@dataclass(frozen=True)
class Sweep:
    """A disturbed sweep, run to its end."""

    timing: Timing
    num_starts: int
    comparison: Comparison


def workers_of(store: Path) -> Iterator[int]:
    """The living workers of a store, those too whose command is gone; not what they call."""
    mine = f"\0ATTRAIN_STORE={store}\0".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")  # empty for one that has ended
            if words[1:3] == [b"-m", b"jobs.worker"] and mine in b"\0" + (process / "environ").read_bytes():
                yield int(process.name)
        except OSError:  # ended meanwhile
            continue


def steps_at_work(store: Path) -> dict[int, str]:
    """{process id: 'stage/key'}."""
    names = (f"{path.parent.name}/{path.stem}" for path in store.glob("*/*.partial"))
    owners = ((name, Store(store).owner(name)) for name in names)
    return {owner.pid: name for name, owner in owners if owner is not None}


def hit(store: Path, process: subprocess.Popen[bytes], moments: Moments, *, number: int, started_s: float) -> tuple[Kill, str]:
    """Send a random signal to a random process; the kill, and the step that was hit."""
    at_work = steps_at_work(store)
    chosen = moments.draw.choice([process.pid, *sorted(workers_of(store))])
    sent = moments.draw.choice(SIGNALS)
    os.kill(chosen, sent)
    stages = {name.split("/")[0] for pid, name in at_work.items() if chosen in (pid, process.pid)}
    kill = Kill(
        number=len(moments.kills) + 1,
        store=number,
        second=round(time.monotonic() - started_s, 1),
        target="command" if chosen == process.pid else "worker",
        stage=" + ".join(sorted(stages)) or "none",
        signal=sent.name,
    )
    return kill, at_work.get(chosen, "")


def became(kill: Kill, step: str, *, code: int, printed: str) -> str:
    """What became of a kill, once the command that ran then has ended."""
    if kill.target == "command":
        return f"the command was killed by {signal.Signals(-code).name}" if code < 0 else f"the command ended with {code}"
    if not step:
        return "no step was lost"
    return "the step failed and was made by the next start" if f"failed: {step}: " in printed else "the step was carried on"


def run_once(setup: Setup, store: Path, moments: Moments, *, number: int, started_s: float) -> int:
    """One start of the command, to its end; its exit code."""
    before = log_of(store).stat().st_size if log_of(store).exists() else 0
    process, hits = setup.start(store), []
    while process.poll() is None:
        if moments.due:
            try:
                hits.append(hit(store, process, moments, number=number, started_s=started_s))
            except ProcessLookupError:  # It ended by itself just then: another one.
                continue
            moments.kills.append(hits[-1][0])
            moments.wait_for_next()
        time.sleep(0.01)
    code = process.returncode
    printed = log_of(store).read_bytes()[before:].decode(errors="replace")
    for kill, step in hits:
        known = replace(kill, became=became(kill, step, code=code, printed=printed))
        moments.kills[kill.number - 1] = known
        hit_whom = f"{known.signal} to the {known.target} ({known.stage})"
        print(f"{known.number:4d}  store {number}  {known.second:6.1f} s  {hit_whom}: {known.became}", flush=True)
    if code and not hits:
        raise CampaignError(
            f"{' '.join(setup.command())} ended with {code}, though nobody disturbed it; {log_of(store)} ends:\n{printed[-3000:]}"
        )
    return code


def disturbed_sweep(setup: Setup, reference: Path, moments: Moments, *, number: int) -> Sweep:
    """Start the command until it ends with 0, killing meanwhile; hold what came out against the undisturbed store.

    Raises:
        CampaignError: it comes to no end, or ends badly undisturbed, or leaves workers behind.
    """
    store, started_s = setup.folder / f"disturbed-{number}", time.monotonic()
    num_starts, num_done, idle = 0, 0, 0
    moments.wait_for_next()
    while run_once(setup, store, moments, number=number, started_s=started_s):
        num_starts += 1
        done = len(list(Store(store).names()))
        num_done, idle = done, 0 if done > num_done else idle + 1
        if idle == MOST_STARTS_WITHOUT_A_STEP:
            raise CampaignError(f"{idle} starts in a row finished no step of {store}; is --gap-s ({moments.mean_gap_s}) too short?")
    timing = Timing.since(started_s)
    deadline = time.monotonic() + LEAVE_S
    while left := list(workers_of(store)):
        if time.monotonic() > deadline:
            raise CampaignError(f"{store} is complete, but its workers {left} still live after {LEAVE_S:g} s")
        time.sleep(0.1)
    return Sweep(timing, num_starts + 1, compare(reference, store))


def undisturbed_sweep(setup: Setup, store: Path) -> Timing:
    """Run the experiment without trouble."""
    started_s = time.monotonic()
    run_once(setup, store, Moments(0, 1.0, random.Random()), number=0, started_s=started_s)
    return Timing.since(started_s)


def campaign(setup: Setup, reference: Path, moments: Moments) -> list[Sweep]:
    """Disturbed sweeps until there were enough kills."""
    sweeps: list[Sweep] = []
    while len(moments.kills) < moments.num_kills:
        sweeps.append(disturbed_sweep(setup, reference, moments, number=len(sweeps) + 1))
        for problem in sweeps[-1].comparison.problems:
            print(f"DIFFERENT  store {len(sweeps)}  {problem}")
    return sweeps


def made_by(reference: Path) -> dict[str, str]:
    """Commit and hardware as the undisturbed tables name them."""
    tables = [pd.read_parquet(path) for path in sorted((reference / "results").rglob("results.parquet"))]
    return {name: ", ".join(sorted({str(value) for table in tables for value in table[name].dropna()})) for name in ("commit", "hardware")}


def summary(setup: Setup, kills: Sequence[Kill], sweeps: Sequence[Sweep], *, about: Mapping[str, str], undisturbed: Timing) -> str:
    """What came of a campaign, as Markdown."""
    counts = Counter((kill.target, "any" if kill.target == "command" else kill.stage, kill.signal) for kill in kills)
    rows = sorted({(target, stage) for target, stage, _ in counts})
    artifacts = [what for sweep in sweeps for what in sweep.comparison.artifacts.values()]
    tables = [what for sweep in sweeps for what in sweep.comparison.tables.values()]
    disturbed_s = sum(sweep.timing.seconds for sweep in sweeps)
    lines = [
        f"# {len(kills)} kills over {' '.join([setup.experiment, *setup.overrides])}",
        "",
        f"| hit | stage at work | {' | '.join(sent.name for sent in SIGNALS)} |",
        "| --- | --- | ---: | ---: |",
        *(f"| {target} | {stage} | {' | '.join(str(counts[target, stage, sent.name]) for sent in SIGNALS)} |" for target, stage in rows),
        "",
        f"- sweeps completed: {len(sweeps)}, in {sum(sweep.num_starts for sweep in sweeps)} starts of the same command",
        f"- identical artifacts: {artifacts.count('')}/{len(artifacts)}; identical tables, costs aside: {tables.count('')}/{len(tables)}",
        f"- time: {disturbed_s:.0f} s for {len(sweeps)} sweeps; undisturbed {undisturbed.seconds:.0f} s each; "
        f"extra {(disturbed_s - len(sweeps) * undisturbed.seconds) / max(1, len(kills)):.1f} s a kill",
        f"- load of the machine, mean of five minutes: {undisturbed.load:.1f} after the undisturbed sweep; "
        f"{', '.join(f'{sweep.timing.load:.1f}' for sweep in sweeps)} after the others",
        *(f"- {name}: {value}" for name, value in about.items()),
        *(f"- DIFFERENT: {problem}" for sweep in sweeps for problem in sweep.comparison.problems),
    ]
    return "\n".join(lines) + "\n"


def write(out: Path, kills: Sequence[Kill], text: str) -> None:
    """kills.csv and summary.md."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "kills.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [one.name for one in fields(Kill)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(kill) for kill in kills)
    (out / "summary.md").write_text(text)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="number of kills")
    parser.add_argument("--seed", type=int, default=0, help="of moments, processes and signals")
    parser.add_argument("--gap-s", type=float, default=5.0, help="mean seconds between two kills")
    parser.add_argument("--experiment", default="quickstart", help="name or path")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="a setting of the experiment, as for `attrain submit`")
    parser.add_argument("--reference", type=Path, help="a store in which the experiment ran undisturbed; else it runs first")
    parser.add_argument("--out", type=Path, default=OUT, help="where kills.csv and summary.md go")
    return parser.parse_args()


def main() -> None:
    """Run a campaign; print, and write, what came of it."""
    given = arguments()
    with tempfile.TemporaryDirectory(prefix="attrain-kills-") as folder:
        setup = Setup(given.experiment, tuple(given.overrides), Path(folder).resolve())
        reference, undisturbed = given.reference, Timing(float("nan"), float("nan"))
        if reference is None:
            reference = setup.folder / "undisturbed"
            undisturbed = undisturbed_sweep(setup, reference)
        moments = Moments(given.kills, given.gap_s, random.Random(given.seed))
        sweeps = campaign(setup, reference, moments)
        about = made_by(reference) | {"seed": str(given.seed), "mean gap": f"{given.gap_s:g} s"}
    text = summary(setup, moments.kills, sweeps, about=about, undisturbed=undisturbed)
    print(text)
    write(given.out, moments.kills, text)
    sys.exit(any(sweep.comparison.problems for sweep in sweeps))


if __name__ == "__main__":
    main()
