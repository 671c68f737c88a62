"""One try of one task, and what is told of how the task ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

OWN_FAULT = (ValueError, KeyError, NotImplementedError)
_LONGEST_REASON = 300

Status = Literal["done", "there", "failed"]
Work = Callable[[str, Any], Status]
"""(name, item) -> "done", or "there" where nothing was left to do; raises where it fails."""


@dataclass(frozen=True)
class Outcome:
    """How a task ended.

    Parameters
    ----------
    name : of the task.
    status : "done", "there" (nothing was left to do) or "failed".
    reason : why it failed, one line.
    """

    name: str
    status: Status
    reason: str = ""


def attempt(work: Work, name: str, item: Any) -> Outcome:
    """One try; what a task is to blame for itself is an outcome, all else is raised."""
    try:
        return Outcome(name, work(name, item))
    except OWN_FAULT as error:
        return failure(name, error)


def after_tries(outcome: Outcome, tries: int) -> Outcome:
    """What a second try finds there was made by the first, whose answer was lost: it counts as done."""
    return replace(outcome, status="done") if tries > 1 and outcome.status == "there" else outcome


def failure(name: str, error: BaseException) -> Outcome:
    """The outcome of a task that ended with an exception."""
    return Outcome(name, "failed", reason_of(error))


def reason_of(error: BaseException) -> str:
    """An exception as one line, with its type unless the task itself is to blame."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    line = " ".join(text.split()) or type(error).__name__
    line = line if isinstance(error, OWN_FAULT) else f"{type(error).__name__}: {line}"
    return line if len(line) <= _LONGEST_REASON else line[: _LONGEST_REASON - 4] + " ..."
