"""Libraries that only some commands need, which are the extras of pyproject.toml."""

from importlib.util import find_spec

from src.utils.errors import UserError


def need(library: str, what: str, extra: str = "export") -> None:
    """Refuse to go on without a library.

    Args:
        library: the name by which it is imported, which is that to install, but for _ in place of -.
        what: what needs it, such as format=onnx.
        extra: the extra that has it.

    Raises:
        UserError: if it is not installed, saying what to install.
    """
    if find_spec(library) is None:
        name = library.replace("_", "-")
        raise UserError(f"{name} is needed {what}; install it: pip install {name}, or 'diffusion-lab[{extra}]'")
