"""Profiles of hypothesis, and the parts of conf/ with random legal settings."""

from pathlib import Path
from typing import Any, get_type_hints

import yaml
from hydra.utils import get_object
from hypothesis import HealthCheck, Phase, assume, settings
from hypothesis import strategies as st
from hypothesis.internal.conjecture import providers

CONF = Path(__file__).resolve().parents[2] / "conf"
SHARED = {
    "deadline": None,
    "database": None,
    "suppress_health_check": list(HealthCheck),  # a busy machine is no mistake
    "phases": [Phase.explicit, Phase.generate, Phase.target, Phase.shrink],
}


def load_profile(every_test: bool) -> None:
    """Few examples, the same in every run; many random ones where the slow tests run too (`make test-all`)."""
    # hypothesis also draws constants of the modules imported so far, so that examples would depend on the other tests.
    providers._get_local_constants = lambda: providers._local_constants
    settings.register_profile("quick", max_examples=20, derandomize=True, **SHARED)
    settings.register_profile("thorough", max_examples=300, print_blob=True, **SHARED)
    settings.load_profile("thorough" if every_test else "quick")


def examples(share: float) -> settings:
    """The setting for a test with this share of the profile's examples."""
    return settings(max_examples=max(1, round(settings.default.max_examples * share)))


def files_of(group: str) -> dict[str, dict[str, Any]]:
    """The settings of every file of a config group that makes one part."""
    files = {path.stem: yaml.safe_load(path.read_text()) or {} for path in sorted((CONF / group).glob("*.yaml"))}
    # What follows another part of a config has its default here.
    own = {name: {k: v for k, v in file.items() if "${" not in str(v)} for name, file in files.items()}
    return {name: file for name, file in own.items() if "_target_" in file}


@st.composite
def parts(draw: st.DrawFn, group: str, name: str, **fixed: Any) -> Any:
    """The part of a file of conf/ with random numbers in place of those in the file, as far as it accepts them."""
    file = {**files_of(group)[name], **fixed}
    target = get_object(file.pop("_target_"))
    file.pop("_partial_", None)
    hints = get_type_hints(getattr(target, "__init__", target), include_extras=True)
    arguments = {
        key: value if key in fixed else draw(near(value, bool(getattr(hints.get(key), "__metadata__", ()))))
        for key, value in file.items()
    }
    try:
        return target(**arguments)
    except ValueError:
        assume(False)


def near(value: Any, bounded: bool) -> st.SearchStrategy[Any]:
    """Values like this one: a number of up to four times its size, of any sign if it has no bounds."""
    if isinstance(value, bool):
        return st.booleans()
    if isinstance(value, int):
        return st.integers(1, 2 * value)
    if isinstance(value, float) and bounded:
        return st.floats(-2, 2).map(lambda power: value * 2**power)
    if isinstance(value, float):
        return st.floats(-1, 1).map(lambda share: value + share * (1 + abs(value)) / 2)
    return st.just(value)
