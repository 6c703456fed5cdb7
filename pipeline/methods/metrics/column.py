"""What all metrics have in common: a name of their own in the tables."""

from pydantic import Field, field_validator

from pipeline.core.settings import Settings, tag

NUM_NAN = "num_nan"
"""Ends the name of the column that counts the samples for which a metric has no value."""


class Column(Settings):
    """Fields that all metrics share; not a metric itself."""

    name: str | None = Field(default=None, pattern="^[a-z0-9_]+$")
    """Tells entries of one metric apart: small letters, digits and '_'. The column is then called METRIC.NAME; None: METRIC."""

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str | None) -> str | None:
        if name == NUM_NAN:
            raise ValueError(f"{NUM_NAN!r} is what the count of samples without a value is called; choose another name")
        return name

    @property
    def column(self) -> str:
        """The result column, which follows the name of the split."""
        return ".".join(filter(None, (tag(self), self.name)))
