"""Every error a run can end with, and the exit state that belongs to it.

The text of an error is one sentence for the person at the keyboard: what
happened, at whose side, what to do. It never holds a value, an identifier, a
hash, a share or a key. Local errors are ours, remote ones a peer's; the
distinction follows h11.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar


class PipelineError(Exception):
    """The root of all errors raised on purpose."""

    exit_state: ClassVar[int] = 1


class OwnInputError(PipelineError):
    """This party's own input is wrong; found before anything is sent.

    `faults` has one sentence for each fault, so that all are mended in one go.
    """

    exit_state = 2

    def __init__(self, faults: str | Iterable[str]) -> None:
        self.faults = (faults,) if isinstance(faults, str) else tuple(faults)
        super().__init__("; ".join(self.faults))


class ConfigError(OwnInputError):
    """The agreement, the local file, a key or a certificate is wrong."""


class DataError(OwnInputError):
    """The table is wrong; a fault names file, column and line, never a value."""


class SharesMissing(OwnInputError):
    """This party has no kept shares that it could analyse; the others are told."""


class RangeError(OwnInputError):
    """A number cannot be represented, or could overflow later on."""


class Refused(PipelineError):
    """A rule of the study forbids to go on; `rule` is its fixed name."""

    exit_state = 3

    def __init__(self, rule: str, sentence: str) -> None:
        self.rule = rule
        super().__init__(sentence)


class PeerError(PipelineError):
    """A peer cannot be reached, has died, timed out, withdrew or is not who it says."""

    exit_state = 4


class RemoteProtocolError(PeerError):
    """A peer sent what the protocol does not allow."""


class LocalProtocolError(PipelineError):
    """Our own code broke the protocol: a bug."""
