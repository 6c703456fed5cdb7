"""Defects of published procedures, each behind a switch of its own, to be measured beside the corrected form: never by default."""

from pipeline.core.settings import Settings


class Legacy(Settings):
    """What a run of an audit does as it was published, and no other run may do: a table has to say that it is an audit."""

    resplit: bool = False
    """Draw the training and the validation samples anew in each round, out of both, as Proxy Attention did: a model is then validated on
    samples that it was trained on in an earlier round. Test samples stay apart."""
    dead_proxies: bool = False
    """Make samples and never train on them, as Proxy Attention did in most of its rounds."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the defects that are switched on."""
        return tuple(f"legacy.{name}" for name, is_on in self if is_on)
