"""Text encoders of the library transformers in a local folder: nothing is downloaded, unpickled or run as code."""

from hashlib import blake2b
from pathlib import Path
from typing import Any

from src.utils.errors import UserError

KEY = "condition.encoder.folder"
ENDS = 1 << 20  # bytes at each end of a file that identify it
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
WEIGHTS, DESCRIPTION = (".safetensors",), (".json", ".txt", ".model")


def check_folder(folder: str | None) -> None:
    """Refuse what is no folder of an encoder whose weights are safetensors.

    Raises:
        UserError: saying what is missing.
    """
    if not folder:
        raise UserError(f"{KEY}=FOLDER must be given, one that save_pretrained of transformers wrote")
    if not Path(folder).is_dir():
        raise UserError(f"{KEY}={folder} must be a local folder, as nothing is downloaded, and there is none")
    names = sorted(path.name for path in Path(folder).iterdir())
    if "config.json" not in names:
        raise UserError(f"{KEY}={folder} has no config.json; give a folder that save_pretrained of transformers wrote")
    if not any(name.endswith(WEIGHTS) for name in names):
        pickles = [name for name in names if name.endswith(PICKLES)]
        found = f"pickled weights only ({pickles[0]}), which may run code and are never loaded" if pickles else "none"
        raise UserError(f"{KEY}={folder} must hold weights as safetensors, got {found}; save them by save_pretrained")


def load_text_encoder(folder: str) -> tuple[Any, Any]:
    """The tokenizer and the encoder, in evaluation mode and without gradients.

    Raises:
        UserError: if the library is not installed, or cannot read the folder.
    """
    try:
        import transformers
    except ImportError as error:
        raise UserError("condition.encoder needs transformers: pip install 'diffusion-lab[transformers]'") from error
    transformers.utils.logging.disable_progress_bar()  # which would stand among what a command prints
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
        config = transformers.AutoConfig.from_pretrained(folder, **options)
        kind = getattr(transformers, (config.architectures or ["AutoModel"])[0], transformers.AutoModel)
        model = kind.from_pretrained(folder, use_safetensors=True, **options).base_model
    except Exception as error:  # the library raises anything
        text = " ".join(str(error).split())[:200]
        raise UserError(f"{KEY}={folder} cannot be loaded by transformers ({type(error).__name__}: {text})") from error
    if hasattr(model, "text_model"):  # that of pictures and texts, such as CLIP
        model = model.text_model
    elif config.is_encoder_decoder:
        model = model.get_encoder()
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer, model.float().eval().requires_grad_(False)


def folder_fingerprint(folder: str) -> int:
    """A hash of the weights and of the tokenizer: of the names, sizes and both ends of the files."""
    found = blake2b(digest_size=7)
    for path in sorted(path for path in Path(folder).iterdir() if path.suffix in WEIGHTS + DESCRIPTION):
        size = path.stat().st_size
        with path.open("rb") as file:
            found.update(repr((path.name, size)).encode() + file.read(ENDS))
            file.seek(max(0, size - ENDS))
            found.update(file.read(ENDS))
    return int.from_bytes(found.digest(), "big")
