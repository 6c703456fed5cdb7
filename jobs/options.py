"""The command line itself, and the options and arguments that several commands share."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from typer.core import TyperGroup

from pipeline.core.files import follow_mode_of, open_to_group


class InOrder(TyperGroup):
    """Lists the commands as one meets them, wherever they are defined."""

    ORDER = (
        "plan",
        "submit",
        "run",
        "status",
        "logs",
        "retry",
        "cancel",
        "clean",
        "verify",
        "collect",
        "explain",
        "methods",
        "fetch",
        "doctor",
    )

    def list_commands(self, ctx: Any) -> list[str]:
        """Their names; one that ORDER lacks comes last."""
        return sorted(self.commands, key=lambda name: self.ORDER.index(name) if name in self.ORDER else len(self.ORDER))


app = typer.Typer(
    name="attrain",
    cls=InOrder,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
console = Console(highlight=False, markup=False, soft_wrap=not sys.stdout.isatty())


def _follow(store: Path) -> Path:
    """What a command makes in a store that is open to a group is open to the group too."""
    follow_mode_of(store)
    return store


StoreOption = Annotated[
    Path, typer.Option("--store", envvar="ATTRAIN_STORE", callback=_follow, help="Folder of all artifacts, plans and tables.")
]
SharedGroupOption = Annotated[
    str | None,
    typer.Option(help="Make a new store that all members of this group can read and write; they can then run code as one another."),
]
DataOption = Annotated[Path, typer.Option("--data", envvar="ATTRAIN_DATA", help="Folder in which the files of data sets lie.")]
ExperimentArgument = Annotated[str, typer.Argument(help="Name of one of jobs/experiments, or path of a YAML file.")]
PlanArgument = Annotated[str, typer.Argument(help="Experiment (its newest plan), plan, or path of a plan's folder.")]
SetOption = Annotated[list[str], typer.Option("--set", help="Override a setting, such as base.retraining.epochs=5; may be repeated.")]
STORE, DATA = Path("runs"), Path("data")
Backend = Literal["auto", "local", "slurm", "submitit"]


def open_store(store: Path, group: str | None) -> None:
    """What --shared-group asks for; nothing without it."""
    if group is not None:
        open_to_group(store, group)
        follow_mode_of(store)
