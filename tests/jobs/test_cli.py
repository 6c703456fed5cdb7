"""The command line: its help, what it loads, and how it says what is wrong."""

import sys
import tomllib
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from jobs import cli, slurm
from jobs.__main__ import main as start
from jobs.stages import STAGE_NAMES
from pipeline.stages import STAGES
from tests.jobs.support import attrain, run

OPTIONS = Path(__file__).parent / "cli_options.txt"
COMMANDS = dict(sorted(typer.main.get_command(cli.app).commands.items()))


def options() -> str:
    """'plan EXPERIMENT --set ...': a line a command."""
    lines = []
    for name, command in COMMANDS.items():
        names = [param.opts[-1] if param.param_type_name == "option" else str(param.name).upper() for param in command.params]
        lines.append(" ".join([name, *names]))
    return "\n".join(lines) + "\n"


def test_commands_and_options_are_the_recorded_ones():
    assert options() == OPTIONS.read_text(), f"if this is meant, tell it in CHANGELOG.md and write the new lines into {OPTIONS.name}"


def test_attrain_alone_says_what_to_do_first(tmp_path):
    done = attrain(store=tmp_path / "store")
    assert (done.returncode, done.stderr) == (0, "")
    first_command = next(line for line in done.stdout.splitlines() if line.startswith("  attrain"))
    assert first_command.split()[:3] == ["attrain", "submit", "quickstart"]
    assert list(tmp_path.iterdir()) == []


def test_every_command_named_by_attrain_alone_is_there(tmp_path):
    shown = CliRunner().invoke(cli.app, []).output
    named = {line.split()[1] for line in shown.splitlines() if line.startswith("  attrain")}
    assert named - {"--help"} <= COMMANDS.keys()


def test_the_help_names_every_command_and_the_environment():
    shown = CliRunner().invoke(cli.app, ["--help"])
    assert shown.exit_code == 0
    assert [name for name in COMMANDS if f"\n  {name} " not in shown.output] == []
    assert "ATTRAIN_STORE" in shown.output
    assert "ATTRAIN_DATA" in shown.output


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_argument_and_option_has_help(name):
    shown = CliRunner().invoke(cli.app, [name, "--help"])
    assert shown.exit_code == 0
    assert COMMANDS[name].help
    params = [param for param in COMMANDS[name].params if param.name != "help"]
    assert [param.name for param in params if not getattr(param, "help", None)] == []
    assert [param.opts[0] for param in params if param.param_type_name == "option" and param.opts[0] not in shown.output] == []


HEAVY = {"torch", "torchvision", "captum", "submitit", "matplotlib", "pandas", "scipy", "sklearn"}
QUICK = {
    "help": ["--help"],
    "the help of a command": ["submit", "--help"],
    "plan": ["plan", "TINY"],
    "status": ["status", "tiny"],
    "submit --dry-run": ["submit", "TINY", "--dry-run", "--backend", "local"],
    "methods": ["methods"],
    "logs": ["logs", "prepare-0"],
    "retry --dry-run": ["retry", "tiny", "--dry-run", "--backend", "local"],
    "cancel": ["cancel", "tiny"],
    "clean": ["clean"],
    "verify": ["verify", "tiny"],
}


@pytest.mark.parametrize("what", QUICK)
def test_what_answers_at_once_loads_no_torch(what, tiny, undisturbed):
    code = f"import sys\nfrom jobs.cli import main\ntry:\n    main()\nfinally:\n    print('loaded:', sorted({HEAVY} & sys.modules.keys()))"
    arguments = [str(tiny) if argument == "TINY" else argument for argument in QUICK[what]]
    done = run([sys.executable, "-c", code, *arguments], store=undisturbed)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("loaded: []\n")


@pytest.fixture
def say(monkeypatch, capsys, tmp_path):
    """Run a command in this process, in an empty folder: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    for name in ("ATTRAIN_STORE", "ATTRAIN_DATA"):
        monkeypatch.delenv(name, raising=False)

    def say(*arguments: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["attrain", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        output = capsys.readouterr()
        return ended.value.code, output.out, output.err

    return say


WRONG = {
    "an unknown experiment": (["submit", "quickstrat"], 78, "error: there is no experiment 'quickstrat' (nearest: quickstart; "),
    "a wrong override": (["plan", "quickstart", "--set", "base.sed=1"], 78, "unknown field 'sed' (nearest: seed; "),
    "a plan that is not there": (
        ["status", "quickstart"],
        78,
        "error: runs/plans has no plan of 'quickstart'; it has none. `attrain submit",
    ),
    "tables of a plan that is not there": (["collect", "quickstart"], 78, "error: runs/plans has no plan of 'quickstart'"),
    "logs of an unknown step": (["logs", "abcd"], 78, "error: no step or run 'abcd' in any plan; `attrain status --all` names steps"),
    "a setting that a run has not": (["methods", "atribution"], 78, "error: unknown setting 'atribution' (nearest: attribution; valid: "),
    "a folder without a plan": (
        ["run", "--plan", "nowhere", "--stage", "prepare", "--index", "0"],
        78,
        "error: nowhere holds no plan.parquet; `attrain plan EXPERIMENT` makes a plan",
    ),
    "an executor without submitit": (
        ["submit", "quickstart", "--executor", "local"],
        78,
        "error: --executor local is one of submitit's; add --backend submitit, or leave it out",
    ),
    "an override of what is swept": (
        ["plan", "quickstart", "--set", "base.seed=5"],
        78,
        "error: --set base.seed: 'seed' is swept, so that no run takes it from the base; set sweep.seed=[...] instead",
    ),
    "a name too long for a file": (["submit", "x" * 5000], 1, "File name too long"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_command_is_answered_in_one_line(say, what):
    arguments, code, message = WRONG[what]
    assert (found := say(*arguments))[0] == code
    assert found[1] == ""
    assert message in found[2]
    assert found[2].startswith("error: ")
    assert len(found[2].splitlines()) == 1


def test_a_launcher_that_names_no_rank_is_told_in_one_line(say, monkeypatch, undisturbed):
    (plan,) = (path.parent for path in undisturbed.glob("plans/*/plan.json"))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    code, _, error = say("run", "--plan", str(plan), "--stage", "prepare", "--index", "0", "--store", str(undisturbed))
    assert code == 1
    assert error.startswith("error: torchrun started this process, but RANK, WORLD_SIZE, LOCAL_RANK is not set to a number; ")
    assert len(error.splitlines()) == 1


def test_an_unknown_option_is_answered_with_the_nearest(say):
    code, _, error = say("submit", "quickstart", "--dryrun")
    assert code == 2
    assert "No such option: --dryrun" in error
    assert "--dry-run" in error


def test_an_unknown_command_is_named(say):
    code, _, error = say("sumbit")
    assert code == 2
    assert "No such command 'sumbit'" in error


def test_our_own_mistakes_keep_their_trace(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["attrain", "methods"])
    monkeypatch.setattr(cli, "app", lambda: {}["nothing"])
    with pytest.raises(KeyError):
        cli.main()


def test_a_store_without_plans_says_how_to_make_one(say):
    assert say("status") == (0, "runs has no plans yet; `attrain submit quickstart` makes one\n", "")


def test_a_store_that_is_a_file_is_told_by_every_command_that_looks_for_plans(say, tmp_path):
    (tmp_path / "runs").write_text("")
    for command in (["status"], ["status", "quickstart"], ["collect", "quickstart"], ["verify"], ["logs", "prepare-0"]):
        assert say(*command) == (78, "", "error: the store runs is a file; set ATTRAIN_STORE (or --store) to a folder\n")


@pytest.mark.parametrize(
    ("options", "instead"),
    [(["--backend", "slurm"], "--backend local"), (["--backend", "submitit"], "--backend submitit --executor local")],
)
def test_a_cluster_that_is_not_there_is_told_with_what_works_here(say, monkeypatch, options, instead):
    monkeypatch.setattr(slurm, "is_there", lambda: False)
    code, _, error = say("submit", "quickstart", *options)
    assert (code, error.count("\n")) == (1, 1)
    assert f"no SLURM answers here (sbatch, scontrol ping); use {instead}, or log in where there is one" in error


def test_two_arms_of_the_same_steps_are_told(say, tmp_path):
    (tmp_path / "e.yaml").write_text("experiment: e\nsweep: {rounds: [1, 2]}\n")
    code, output, _ = say("submit", "e.yaml", "--dry-run", "--backend", "local")
    assert code == 0
    assert output.startswith("arms 'rounds=1' and 'rounds=2' have the same steps: nothing that tells them apart has an effect\n")


def test_the_version_is_that_of_the_package(say):
    wanted = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["version"]
    assert say("--version") == (0, f"attrain {wanted}\n", "")


def test_the_help_of_run_names_the_stages():
    assert [stage.name for stage in STAGES] == list(STAGE_NAMES)
    shown = " ".join(CliRunner().invoke(cli.app, ["run", "--help"]).output.split())
    assert ", ".join(STAGE_NAMES) in shown


class Interrupted:
    """Stands for a module that Ctrl-C keeps from being loaded, or for the command in it."""

    @property
    def main(self):
        raise KeyboardInterrupt


@pytest.mark.parametrize("when", ["while it loads", "by a command that does not handle it"])
def test_an_interrupt_ends_with_130_and_a_word_but_no_trace(monkeypatch, capsys, when):
    if when == "while it loads":
        monkeypatch.setitem(sys.modules, "jobs.cli", Interrupted())
    else:
        monkeypatch.setattr(cli, "app", lambda: sys.exit(130))
    with pytest.raises(SystemExit) as ended:
        start()
    assert ended.value.code == 130
    assert capsys.readouterr() == ("", "interrupted; the same command continues\n")


def test_methods_lists_every_choice_with_its_settings_and_defaults(say):
    from pipeline.methods.attribution import ATTRIBUTIONS

    code, output, _ = say("methods")
    assert code == 0
    for method in ATTRIBUTIONS:
        assert f"  method: {method.model_fields['method'].default}  " in output
        for name in method.model_fields.keys() - {"method"}:
            assert f"      {name}: " in output


def test_methods_shows_settings_that_have_no_name_by_their_fields(say):
    code, output, _ = say("methods", "model")
    assert code == 0
    weights = {line.split("  Weights")[0].strip() for line in output.splitlines() if line.startswith("      weights: ")}
    assert weights == {"weights: None (or {file, sha256})", "weights: None (one of torchvision, {file, sha256})"}


def test_a_dry_run_tells_stages_keys_and_edges_and_changes_nothing(say, tmp_path):
    code, output, _ = say("submit", "quickstart", "--dry-run", "--backend", "local")
    assert code == 0
    for stage in ("prepare", "pretrain", "attribute", "augment", "retrain", "evaluate"):
        assert stage in output
    assert "after " in output
    assert list(tmp_path.iterdir()) == []


def test_plan_writes_the_plan_and_says_where(say, tmp_path):
    code, output, _ = say("plan", "quickstart")
    assert code == 0
    folder = Path(output.splitlines()[-1].removeprefix("plan: "))
    assert folder.parent == tmp_path / "runs" / "plans"
    assert {path.name for path in folder.iterdir()} == {"plan.parquet", "plan.json", "experiment.yaml", "code", "logs", "submissions"}
    assert say("plan", "quickstart")[1].splitlines()[-1] == output.splitlines()[-1]


def test_the_log_of_a_step_is_shown_by_its_key_its_number_or_its_name(undisturbed):
    (prepare,) = (path.name for path in (undisturbed / "prepare").iterdir())
    outputs = {attrain("logs", name, store=undisturbed).stdout for name in (prepare, prepare[:6], "prepare-0", f"prepare/{prepare}")}
    assert len(outputs) == 1
    assert f"prepare/{prepare} is done" in outputs.pop()
