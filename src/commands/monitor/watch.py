"""Look at a service: its figures since the last look, and its outputs since its deployment."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from src.commands.monitor.outputs import Outputs, compare_outputs, outputs_at_deployment
from src.commands.monitor.service import Check, Samples, ServiceClient, checks_of, since
from src.metrics.drift import DriftTest
from src.metrics.features.base import ReferenceData
from src.utils.atomic import write_json
from src.utils.files import Damaged, read_json
from src.utils.folders import make_out

STATE = {"samples": [{"name": str, "labels": dict, "value": float}]}


class Watch:
    """A service that is looked at now and then.

    Args:
        client: of the service.
        url: its address.
        folder: where the figures of the last look and the first outputs are kept.
        limits: of the checks, by name.
        n: outputs that are compared.

    Attributes:
        digest: of the weights that are served.
        restarted: True if its figures are those since it was started, at the first look or after a restart.
        first, latest: its outputs at the deployment and now; None if it could not be asked.
    """

    def __init__(self, client: ServiceClient, url: str, folder: Path, limits: Mapping[str, float | None], n: int):
        self.client, self.url, self.folder, self.limits, self.n = client, url, folder, limits, n
        self.file = folder / f"service_{sha256(url.encode()).hexdigest()[:6]}.json"
        self.digest, self.restarted = "", True
        self.samples: Samples = {}
        self.first: Outputs | None = None
        self.latest: Outputs | None = None

    def look(self) -> list[Check]:
        """Check the figures since the last look; one check alone if the service does not answer."""
        try:
            self.client.fetch("/ready")
            self.samples = self.client.samples()
            self.digest = served_digest(self.samples)
            before = self.remembered()
            counted = since(self.samples, before)
            self.restarted = not before or counted is self.samples
            make_out(self.folder)
            self.first = outputs_at_deployment(self.folder, self.client, self.digest, self.n)
            self.latest = Outputs.of(self.client, self.digest, self.n, False, self.first.jobs.tolist())
        except (OSError, ValueError, KeyError, StopIteration) as error:
            why = str(error) if isinstance(error, OSError) else f"{self.url} is no service of this project"
            return [Check("unreachable", "the service does not answer", 1.0, 0.0, why)]
        reachable = Check("unreachable", "the service does not answer", 0.0, 0.0)
        return [reachable, *checks_of(counted, self.limits)]

    def compare_outputs(self, reference: ReferenceData, permutations: int, seed: int) -> list[DriftTest]:
        """Test the latest outputs against those at the deployment; none if there are too few."""
        if self.first is None or self.latest is None:
            return []
        return compare_outputs(self.first, self.latest, reference, permutations, seed)

    def remembered(self) -> Samples:
        """The figures of the last look; none if there was none."""
        if not self.file.is_file():
            return {}
        try:
            found = read_json(self.file, STATE, "The figures are those since the start of the service")
        except Damaged:
            return {}
        return {(one["name"], frozenset(one["labels"].items())): one["value"] for one in found["samples"]}

    def remember(self) -> None:
        """Keep the figures for the next look."""
        if self.samples:
            kept = [{"name": n, "labels": dict(labels), "value": float(v)} for (n, labels), v in self.samples.items()]
            write_json(self.file, {"samples": kept})


def served_digest(samples: Samples) -> str:
    """The digest of the weights that are served now.

    Raises:
        StopIteration: if the figures are not those of a service of this project.
    """
    return next(
        dict(labels)["digest"]
        for (name, labels), value in samples.items()
        if name == "diffusion_weights_info" and value
    )
