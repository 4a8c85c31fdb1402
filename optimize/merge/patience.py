"""Evaluations that fail: what was measured before is kept, and after a few in a row nothing more is tried."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from epsopt.zoo.errors import EpsoptError, UsageError

IN_A_ROW = 3
"""Failures one after the other that are no accident of one merge any more."""


@dataclass
class Patience:
    """Remembers how evaluations failed.

    Attributes:
        failures: the message of each.
        stopped: why nothing more is tried; None: it is.
    """

    failures: list[str] = field(default_factory=list)
    stopped: str | None = None
    _in_a_row: int = 0

    def attempt(self, evaluate: Callable[[], Mapping[str, float | None]]) -> Mapping[str, float | None]:
        """Evaluate; a failure measures nothing.

        Args:
            evaluate: measures metrics by name. A :class:`UsageError` is no failure of one merge, and is raised.

        Returns:
            What was measured; empty after a failure.

        Raises:
            UsageError: the hook cannot be used at all.
        """
        try:
            found: Mapping[str, float | None] | EpsoptError = evaluate()
        except UsageError:
            raise
        except EpsoptError as error:
            found = error
        return self.take(found)

    def take(self, found: Mapping[str, float | None] | EpsoptError) -> Mapping[str, float | None]:
        """Take what came of an evaluation; a failure measures nothing.

        Args:
            found: metrics by name, or how the evaluation failed.

        Returns:
            What was measured; empty after a failure.
        """
        if isinstance(found, EpsoptError):
            self.failures.append(str(found))
            self._in_a_row += 1
            if self._in_a_row >= IN_A_ROW:
                self.stopped = f"{self._in_a_row} evaluations in a row failed, the last one as: {found}"
            return {}
        self._in_a_row = 0
        return found

    def notes(self) -> list[str]:
        """Return a sentence about failures, if there were any."""
        if not self.failures:
            return []
        n = len(self.failures)
        many = "one evaluation" if n == 1 else f"{n} evaluations"
        return [f"{many} failed and measured nothing, the last one as: {self.failures[-1]}"]
