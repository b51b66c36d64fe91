"""What monitoring found, and its exit code."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from src.commands.monitor.service import Check, failing
from src.metrics.base import ReportSection
from src.metrics.drift import Drift, DriftTest, adjusted

# Exit codes, which add up; 1 is that of a command that failed, 2 that of a wrong command line.
DRIFT, SERVICE = 3, 4


@dataclass
class Findings:
    """What was found.

    Attributes:
        n: number of new samples.
        of_data: the tests of the new data.
        of_outputs: the tests of the outputs of the service.
        checks: of the service.
        sections: of the report, by name.
        differing: those of all tests that found a difference.
    """

    n: int = 0
    of_data: Sequence[DriftTest] = ()
    of_outputs: Sequence[DriftTest] = ()
    checks: Sequence[Check] = ()
    sections: dict[str, ReportSection] = field(default_factory=dict)
    differing: Sequence[DriftTest] = ()

    def decide(self, drift: Drift) -> None:
        """Adjust the p-values for the number of all tests together, and find the differences."""
        tests, n = adjusted([*self.of_data, *self.of_outputs]), len(self.of_data)
        self.of_data, self.of_outputs = tests[:n], tests[n:]
        self.differing = [test for test in tests if drift.differs(test)]

    @property
    def tests(self) -> list[DriftTest]:
        """All tests."""
        return [*self.of_data, *self.of_outputs]

    @property
    def exit_code(self) -> int:
        return DRIFT * bool(self.differing) | SERVICE * bool(failing(self.checks))

    @property
    def verdict(self) -> str:
        """The result in a sentence."""
        said = [alarm(what, self.named(tests)) for what, tests in (
            ("the new data differ from those of the run in", self.of_data),
            ("outputs of the service differ from those at its deployment in", self.of_outputs),
        )]  # fmt: skip
        failed = failing(self.checks)
        said.append(alarm("the service is beyond its limits:", [check.why or check.title for check in failed]))
        return "; ".join(filter(None, said)) or "all is as it was, as far as the tests can tell"

    def named(self, tests: Sequence[DriftTest]) -> list[str]:
        """The names of the tests that found a difference, the surest first."""
        found = [test for test in tests if test in self.differing]
        return [test.name.removeprefix("outputs: ") for test in sorted(found, key=lambda test: test.adjusted)]


def alarm(what: str, names: Sequence[str], most: int = 4) -> str:
    """An alarm that names its reasons; empty without any."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"ALARM: {what} {', '.join(names[:most])}{more}" if names else ""
