"""Upload of an exported folder to the Hugging Face hub, or to another that HF_ENDPOINT names."""

import os
from pathlib import Path
from typing import Any

from src.utils.errors import UserError
from src.utils.imports import need


def check_push(name: Any) -> None:
    """Refuse an upload that could not be made, before any work: without the library, a token, or a valid name.

    Raises:
        UserError: saying what is missing.
    """
    need("huggingface_hub", "for push=NAMESPACE/NAME")
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if not isinstance(name, str) or name.count("/") != 1:
        raise UserError(f"push must be NAMESPACE/NAME, got {name}")
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"push={name} is no name of a repository: {error}") from error
    if get_token() is None:
        raise UserError("push= needs a token of the hub: run `hf auth login`, or set HF_TOKEN")


def push(folder: Path, name: str, private: bool) -> str:
    """Upload a folder to the model repository `name`, which is made if there is none; returns its address.

    Raises:
        UserError: if the hub refuses it or cannot be reached; the folder stays.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
        repository = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Export with diffusion-lab")
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"push={name}: the upload failed ({reason}); {folder} is kept, push it again") from error
    return str(repository)
