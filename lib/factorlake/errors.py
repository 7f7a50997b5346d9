"""Errors that people meet, each with the exit code its job ends with.

Exit codes: 0 done, 99 nothing to do, 2 usage or settings, 3 refused (data, or a model by its gate),
4 transient (try again), 5 another run holds the lease, 1 unexpected.
"""

from __future__ import annotations

DONE = 0
NOTHING_TO_DO = 99


class FactorlakeError(Exception):
    """Base of all errors raised on purpose. The message names the thing and the way out."""

    exit_code = 1


class ConfigError(FactorlakeError):
    """A setting, an argument or a path in the settings is wrong."""

    exit_code = 2


class DataRefusedError(FactorlakeError):
    """Input that cannot be used as it is: a missing column, an unreadable file, a batch over its limits."""

    exit_code = 3


class RepeatedPairsError(DataRefusedError):
    """Ratings in which a pair of user and item occurs more than once; combine them first."""


class ModelRefusedError(FactorlakeError):
    """A candidate model that its gate does not let pass."""

    exit_code = 3


class NumericalError(FactorlakeError):
    """Factors that are not finite, or a system that cannot be solved. Names the first bad row."""

    exit_code = 3


class TransientError(FactorlakeError):
    """A fault of the surroundings that may be gone on the next try."""

    exit_code = 4


class Terminated(BaseException):
    """The process was told to stop (SIGTERM). No error of the job's, so nothing but the job runner may catch it."""

    exit_code = TransientError.exit_code


class LeaseHeldError(FactorlakeError):
    """Another run is writing to the same tables."""

    exit_code = 5
