"""A text encoder in place of one of transformers, whose import takes seconds."""

from types import SimpleNamespace

import torch
from torch import nn


class Ids(dict):
    def to(self, device):
        return self


class Tokenizer:
    """One token for each word of a text."""

    model_max_length = 6

    def __call__(self, texts, padding, truncation, max_length, return_tensors):
        words = [[len(word) % 9 + 1 for word in text.split()][:max_length] for text in texts]
        most = max(map(len, words))
        ids = torch.tensor([each + [0] * (most - len(each)) for each in words])
        return Ids(input_ids=ids, attention_mask=(ids > 0).long())


class Model(nn.Module):
    """Each token is told the sum of all."""

    def __init__(self, width=8):
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(
            torch.randn(10, width, generator=torch.Generator().manual_seed(0))
        )
        self.calls = 0

    def forward(self, input_ids, attention_mask):
        self.calls += 1
        h = self.embedding(input_ids) * attention_mask[..., None]
        return SimpleNamespace(last_hidden_state=h + h.sum(1, keepdim=True))


def put_in_place(monkeypatch, fingerprint=7):
    """Whatever the folder, this encoder is found in it."""
    module = "src.nets.pretrained_text"
    monkeypatch.setattr(f"{module}.check_folder", lambda folder: None)
    monkeypatch.setattr(f"{module}.folder_fingerprint", lambda folder: fingerprint)
    monkeypatch.setattr(f"{module}.load_text_encoder", lambda folder: (Tokenizer(), Model()))
