"""Errors that a user can mend: shown as one line."""

from jobs.slurm import SchedulerError
from pipeline.core.plan import StalePlanError
from pipeline.core.settings import SettingsError
from pipeline.core.store import MissingInputError, OwnedError, StoreError
from pipeline.core.tables import TableError

USER_ERRORS = (
    SettingsError,
    StalePlanError,
    StoreError,
    MissingInputError,
    OwnedError,
    SchedulerError,
    TableError,
    FileNotFoundError,
    LookupError,
)
