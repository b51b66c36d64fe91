"""Frozen text encoders: nothing of them is trained, averaged or saved, and no pickle is read."""

import copy
import sys

import pytest
import torch
from torch.testing import assert_close

from src.diffusion.conditions.text import encode_text
from src.nets.pretrained_text import PretrainedEncoder
from src.utils.errors import UserError
from src.utils.text_encoder_folder import check_folder, folder_fingerprint, load_text_encoder
from tests.helpers import text_encoder

TEXT = encode_text(["a bold 7", "", "three"], 12)
X = torch.zeros(3, 1, 4)


@pytest.fixture
def encoder(monkeypatch):
    text_encoder.put_in_place(monkeypatch)
    torch.manual_seed(0)
    return PretrainedEncoder(12, 5, "folder")


def test_only_what_is_trained_is_state(encoder):
    assert sorted(encoder.state_dict()) == [
        "begin", "fingerprint", "norm.bias", "norm.weight", "summary.bias", "summary.weight",
    ]  # fmt: skip
    assert copy.deepcopy(encoder).frozen is encoder.frozen
    encoder(TEXT, X).embedding.sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())
    assert encoder.frozen.model.embedding.weight.grad is None


def test_tokens_are_those_of_the_model_after_one_of_its_own(encoder):
    found = encoder(TEXT, X)
    assert found.mask.sum(1).tolist() == [4, 1, 2]
    h = encoder.frozen.model.embedding(torch.tensor([2, 5, 2]))
    assert_close(found.tokens[0, 1:], encoder.norm(h + h.sum(0)))
    assert torch.equal(found.tokens[1, 0], encoder.begin)
    assert_close(found.embedding[1], encoder.summary(encoder.begin))
    assert_close(found.embedding[0], encoder.summary(found.tokens[0].mean(0)))


def test_other_texts_of_the_batch_change_nothing(encoder):
    alone, together = encoder(TEXT[2:], X[2:]), encoder(TEXT, X)
    assert_close(alone.embedding[0], together.embedding[2], rtol=0, atol=1e-6)
    assert_close(alone.tokens[0], together.tokens[2, :2], rtol=0, atol=1e-6)


def test_a_sampler_reads_a_batch_of_texts_once(encoder):
    before = encoder.frozen.model.calls
    first = encoder(TEXT, X)
    assert torch.equal(encoder(TEXT, X).tokens, first.tokens) and encoder.frozen.model.calls == before + 1


def test_another_encoder_is_refused(encoder, monkeypatch):
    state = encoder.state_dict()
    encoder.load_state_dict(state)
    text_encoder.put_in_place(monkeypatch, fingerprint=8)
    with pytest.raises(UserError, match=r"encoder\.folder=other holds another encoder than in the training"):
        PretrainedEncoder(12, 5, "other").load_state_dict(state)


# ---- folders ----


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, "must be a local folder, as nothing is downloaded, and there is none"),
        ([], "has no config.json; give a folder that save_pretrained of transformers wrote"),
        (["config.json"], "must hold weights as safetensors, got none"),
        (
            ["config.json", "pytorch_model.bin"],
            r"pickled weights only \(pytorch_model.bin\), which may run code and are never loaded",
        ),
    ],
)
def test_what_a_folder_must_hold(tmp_path, files, message):
    folder = tmp_path / "encoder"
    if files is not None:
        folder.mkdir()
        for name in files:
            (folder / name).write_bytes(b"\x80\x04")
    with pytest.raises(UserError, match=message) as caught:
        check_folder(str(folder))
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_must_be_given():
    with pytest.raises(UserError, match=r"condition\.encoder\.folder=FOLDER must be given"):
        PretrainedEncoder(12, 5, None)


def test_the_library_must_be_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'diffusion-lab\[transformers\]'"):
        load_text_encoder("folder")


def test_the_fingerprint_is_of_weights_and_tokenizer(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(bytes(1 << 21))
    first = folder_fingerprint(str(tmp_path))
    (tmp_path / "README.md").write_text("x")
    assert folder_fingerprint(str(tmp_path)) == first < 2**63
    (tmp_path / "vocab.txt").write_text("x")
    assert folder_fingerprint(str(tmp_path)) != first
    (tmp_path / "vocab.txt").unlink()
    (tmp_path / "model.safetensors").write_bytes(bytes((1 << 21) - 1) + b"x")
    assert folder_fingerprint(str(tmp_path)) != first


# ---- the real library ----


def saved(kind, folder):
    """A tiny encoder of transformers with random weights, and a tokenizer of some words."""
    tf = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[PAD]", "[UNK]", "a", "bold", "7", "three"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = tf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(folder)
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    text = tf.CLIPTextConfig(vocab_size=6, **size)
    vision = {**size, "image_size": 8, "patch_size": 4}
    t5 = tf.T5Config(vocab_size=6, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    model = {
        "bert": lambda: tf.BertForMaskedLM(tf.BertConfig(vocab_size=6, **size)),
        "t5": lambda: tf.T5Model(t5),
        "t5 encoder": lambda: tf.T5EncoderModel(t5),
        "clip": lambda: tf.CLIPModel(tf.CLIPConfig(text_config=text.to_dict(), vision_config=vision)),
        "gpt2": lambda: tf.GPT2Model(tf.GPT2Config(vocab_size=6, n_embd=8, n_layer=1, n_head=2)),
    }[kind]()
    model.save_pretrained(folder)
    return model.eval(), fast


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "t5", "t5 encoder", "clip", "gpt2"])
def test_encoders_of_transformers(kind, tmp_path):
    torch.manual_seed(0)
    model, tokenizer = saved(kind, str(tmp_path))
    encoder = PretrainedEncoder(12, 5, str(tmp_path))
    found = encoder(TEXT, X)
    given = tokenizer(["a bold 7"], return_tensors="pt")
    parts = {"bert": lambda: model.bert, "clip": lambda: model.text_model}
    reader = parts.get(kind, lambda: model.encoder if kind.startswith("t5") else model)()
    with torch.no_grad():
        hidden = reader(given["input_ids"], attention_mask=given["attention_mask"]).last_hidden_state[0]
        assert_close(found.tokens[0, 1:], encoder.norm(hidden), rtol=0, atol=1e-5)
    assert found.mask.sum(1).tolist() == [4, 1, 2]


@pytest.mark.slow
def test_code_in_a_folder_is_not_run(tmp_path):
    import json

    saved("bert", str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(UserError, match="cannot be loaded by transformers"):
        PretrainedEncoder(12, 5, str(tmp_path))
    assert not (tmp_path / "ran").exists()
