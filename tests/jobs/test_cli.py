"""The command line: its help, what it loads, and how it says what is wrong."""

import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from jobs import cli
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


HEAVY = {"torch", "torchvision", "captum", "submitit", "matplotlib"}
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
    "logs of an unknown step": (["logs", "abcd"], 78, "error: no step 'abcd' in any plan; `attrain status --all` names steps"),
    "a setting that a run has not": (["methods", "atribution"], 78, "error: unknown setting 'atribution' (nearest: attribution; valid: "),
    "a folder without a plan": (
        ["run", "--plan", "nowhere", "--stage", "prepare", "--index", "0"],
        78,
        "error: nowhere holds no plan.parquet; `attrain plan EXPERIMENT` makes a plan",
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


def test_methods_lists_every_choice_with_its_settings_and_defaults(say):
    from pipeline.methods.attribution import ATTRIBUTIONS

    code, output, _ = say("methods")
    assert code == 0
    for method in ATTRIBUTIONS:
        assert f"  method: {method.model_fields['method'].default}  " in output
        for name in method.model_fields.keys() - {"method"}:
            assert f"      {name}: " in output


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
