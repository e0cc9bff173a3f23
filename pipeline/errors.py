"""One hierarchy for everything that austream refuses or fails at.

    AustreamError(Exception)
    ├── UsageError(ValueError)      the command line, the configuration or an argument is wrong   exit 2
    └── RunError                    a run cannot begin or go on                                    exit 1
        ├── SourceError             a source cannot be opened, read or decoded
        │   └── StalledError        its connection is there, its pictures no longer come
        ├── OutputError(OSError)    a result cannot be written
        ├── EngineError             a bundle, a backend or a compiled engine is missing or damaged
        └── TransportError          a hand-over between two processes failed
            ├── WireError           bytes that are not a message of this version
            ├── StaleError          pixels that are gone, or not this process's to look at
            └── PeerLostError       the process at the other end is gone or does not answer

Every message is one line and says what is wrong, what was expected and what to do. The command line prints
it without a traceback; anything that is not an AustreamError is a bug and keeps its traceback.
"""


def first_line(error: BaseException) -> str:
    """What a library's error says first; its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def last_line(error: BaseException) -> str:
    """The same, last: where some libraries begin with their own source files."""
    return next(reversed(str(error).strip().splitlines()), type(error).__name__)


class AustreamError(Exception):
    """The base of every error that is austream's own."""

    exit_code = 1


class UsageError(AustreamError, ValueError):
    """The command line, the configuration or an argument is wrong."""

    exit_code = 2


class RunError(AustreamError):
    """A run cannot begin or go on."""


class SourceError(RunError):
    """A source cannot be opened, read or decoded."""


class StalledError(SourceError):
    """The connection to a source is there, but its pictures no longer come."""


class OutputError(RunError, OSError):
    """A result cannot be written."""


class EngineError(RunError):
    """A bundle, a backend or a compiled engine is missing or damaged."""


class TransportError(RunError):
    """A hand-over between two processes failed."""


class WireError(TransportError):
    """Bytes that are not a message of this version, or a message that cannot be put into bytes."""


class StaleError(TransportError):
    """A descriptor of pixels that are gone, or that are not leased to this process."""


class PeerLostError(TransportError):
    """The process at the other end of a channel is gone, or does not answer in time."""
