"""What monitoring found, and its exit code."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from src.metrics.base import ReportSection
from src.metrics.drift import DriftTest

DRIFT = 3  # exit code; 1 is that of a command that failed, 2 that of a wrong command line


@dataclass
class Findings:
    """What was found.

    Attributes:
        n: number of new samples.
        tests: of the new data.
        differing: those of the tests that found a difference.
        sections: of the report, by name.
    """

    n: int = 0
    tests: Sequence[DriftTest] = ()
    differing: Sequence[DriftTest] = ()
    sections: dict[str, ReportSection] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        return DRIFT if self.differing else 0

    @property
    def verdict(self) -> str:
        """The result in a sentence."""
        if not self.differing:
            return "the new data are like those of the run, as far as the tests can tell"
        names = ", ".join(test.name for test in sorted(self.differing, key=lambda test: test.adjusted)[:4])
        more = f" and {len(self.differing) - 4} more" if len(self.differing) > 4 else ""
        return f"DRIFT: the new data differ from those of the run in {names}{more}"
