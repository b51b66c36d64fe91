"""Frozen text encoders of the library transformers, from a local folder."""

from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from src.diffusion.conditions.encoders import Encoded, Encoder
from src.diffusion.conditions.text import decode_text
from src.utils.errors import UserError
from src.utils.ranges import PositiveInt
from src.utils.text_encoder_folder import KEY, check_folder, folder_fingerprint, load_text_encoder

KEPT = 4  # batches whose tokens are kept: those of a sampler, which asks for the same texts at every step


class PretrainedEncoder(Encoder):
    """Any text encoder of transformers, such as BERT, T5 or the text part of CLIP, which is not trained.

    Its weights are read from the folder whenever the network is built; a checkpoint holds their fingerprint only. What
    is trained are a token before those of the text, which is the whole of an empty text, the null condition, and a
    layer on the mean of the tokens, the embedding.

    Shapes: text (B, N) int64, UTF-8 bytes padded with -1; tokens (B, M + 1, W), M those of the longest text.

    Args:
        text_length: N, also the largest number of tokens.
        embed_dim: dimension of the embedding.
        folder: a folder that `save_pretrained` of transformers wrote, with the tokenizer and weights as safetensors.

    Raises:
        UserError: if the library is not installed, or the folder cannot be used; when weights are loaded, if the folder
            holds another encoder than in their training.
    """

    fingerprint: Tensor

    def __init__(self, text_length: PositiveInt, embed_dim: PositiveInt, folder: str | None = None):
        super().__init__()
        self.frozen = FrozenEncoder(folder, text_length)
        self.token_width = self.frozen((".",), torch.device("cpu"))[0].shape[2]
        self.norm = nn.LayerNorm(self.token_width)
        self.begin = nn.Parameter(torch.randn(self.token_width))
        self.summary = nn.Linear(self.token_width, embed_dim)
        self.register_buffer("fingerprint", torch.tensor(self.frozen.fingerprint))
        self.register_load_state_dict_pre_hook(check_fingerprint)

    def forward(self, cond: Int[Tensor, "batch n"], x: Tensor) -> Encoded:
        found, mask = self.frozen(tuple(decode_text(cond)), x.device)
        begin = self.begin.expand(len(cond), 1, -1)
        tokens = torch.cat([begin, self.norm(found)], 1)
        mask = torch.cat([torch.ones_like(mask[:, :1]), mask & (cond >= 0).any(1, keepdim=True)], 1)
        mean = (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return Encoded(embedding=self.summary(mean), tokens=tokens, mask=mask)


class FrozenEncoder:
    """A text encoder that is no part of the state of a network: neither trained, averaged nor saved.

    Args:
        folder: its folder.
        most: the largest number of tokens of a text.
    """

    def __init__(self, folder: str | None, most: int):
        check_folder(folder)
        assert folder is not None
        self.folder, self.fingerprint = folder, folder_fingerprint(folder)
        self.tokenizer, self.model = load_text_encoder(folder)
        self.most = min(most, self.tokenizer.model_max_length)
        # By whole batches: in another batch the tokens of a text are others in their last bits.
        self.encode = lru_cache(maxsize=KEPT)(self._encode)

    def __call__(self, texts: tuple[str, ...], device: torch.device) -> tuple[Tensor, Tensor]:
        """The tokens (B, M, W) of texts and their mask (B, M), on a device."""
        return self.encode(texts, device)

    def _encode(self, texts: tuple[str, ...], device: torch.device) -> tuple[Tensor, Tensor]:
        options = {"padding": True, "truncation": True, "max_length": self.most, "return_tensors": "pt"}
        # A tokenizer without marks of begin and end makes nothing of an empty text, whose tokens are not used anyway.
        given = self.tokenizer([text if text.strip() else "." for text in texts], **options).to(device)
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
            found = self.model.to(device)(input_ids=given["input_ids"], attention_mask=given["attention_mask"])
        return found.last_hidden_state.float(), given["attention_mask"].bool()

    def __deepcopy__(self, memo: dict[int, Any]) -> "FrozenEncoder":
        return self  # the average of a network reads with the same


def check_fingerprint(encoder: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Refuse the weights of a network that was trained with another encoder."""
    saved = state_dict.get(f"{prefix}fingerprint")
    frozen: Any = encoder.frozen
    if saved is not None and int(saved) != frozen.fingerprint:
        raise UserError(f"{KEY}={frozen.folder} holds another encoder than in the training; put that one back")
