"""Streamed text: together it is the decoded whole, each piece as soon as it is certain, nothing of a stop string."""

import string

import numpy as np
import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from mmjax.decoding.streaming import TextStream
from mmjax.text.tokenizer import ByteTokenizer

TEXT = "Zoë says: 你好, 👩‍🔬!\n\tdone  now."


def byte_level():
    """GPT-2's kind: every byte is a character of its own."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<end>", special=True)])
    return tokenizer


def byte_fallback():
    """Llama's kind: pieces with a bar for the space before a word, single bytes where there is no piece."""
    pieces = [
        "<unk>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        *string.ascii_letters,
        *",.!:",
        "▁says",
        "▁now",
    ]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    merges = [("▁", "s"), ("▁s", "a"), ("▁sa", "y"), ("▁say", "s"), ("▁", "n"), ("▁n", "o"), ("▁no", "w")]
    for merge in merges:
        vocabulary.setdefault("".join(merge), len(vocabulary))
    model = models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken("<end>", special=True)])
    return tokenizer


JOINED = frozenset(range(1, 257))  # the byte pieces of `byte_fallback`
KINDS = {
    "bytes": (ByteTokenizer(), frozenset()),
    "byte_level": (byte_level(), frozenset()),
    "byte_fallback": (byte_fallback(), JOINED),
}


def stream(kind, tokens, stops=()):
    tokenizer, joined = KINDS[kind]
    texts = TextStream(tokenizer.decode, stops=stops, joined=joined)
    return [*(texts.push(token) for token in tokens), texts.end()], texts


def encode(kind, text):
    encoded = KINDS[kind][0].encode(text)
    return encoded if isinstance(encoded, list) else encoded.ids


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_make_the_text(kind):
    tokens = encode(kind, TEXT)
    pieces, _ = stream(kind, tokens)
    assert "".join(pieces) == KINDS[kind][0].decode(tokens) == TEXT
    assert not any("\ufffd" in piece for piece in pieces)
    # Plain letters come at once, a character of several bytes with its last.
    assert sum(map(bool, pieces)) > len(TEXT) / 3
    plain = encode(kind, "says now")
    assert all(stream(kind, plain)[0][:-1])


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_of_any_tokens_make_the_text(kind):
    tokenizer, _ = KINDS[kind]
    size = tokenizer.vocab_size if kind == "bytes" else tokenizer.get_vocab_size()
    random = np.random.default_rng(0)
    valid = encode(kind, TEXT)
    for _ in range(200):
        tokens = [
            int(random.choice(valid)) if random.random() < 0.5 else int(random.integers(size))
            for _ in range(random.integers(1, 30))
        ]
        assert "".join(stream(kind, tokens)[0]) == tokenizer.decode(tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_incomplete_waits_for_its_end(kind):
    tokens = encode(kind, "a👩")
    pieces, _ = stream(kind, tokens)
    start = next(number for number, piece in enumerate(pieces) if piece)
    assert pieces[start] == "a" and "".join(pieces[start + 1 :]) == "👩"
    assert "".join(pieces[: len(tokens) - 1]) == "a"
    broken, _ = stream(kind, tokens[:-1])
    assert "".join(broken).startswith("a\ufffd")  # what never completes is told at the end


def test_a_stop_string_ends_the_text():
    tokens = encode("bytes", "one\nQ: two")
    pieces, texts = stream("bytes", tokens, stops=["\n\n", "\nQ:"])
    assert "".join(pieces) == "one" and texts.stop == "\nQ:"
    # The line break waits: it may begin either.
    assert pieces[:3] == ["o", "n", "e"] and not any(pieces[3:])


def test_what_only_began_like_a_stop_string_is_given():
    pieces, texts = stream("bytes", encode("bytes", "aabaabc"), stops=["aabc"])
    assert "".join(pieces) == "aab" and texts.stop == "aabc"
    pieces, texts = stream("bytes", encode("bytes", "one\nQx\n"), stops=["\nQ:"])
    assert "".join(pieces) == "one\nQx\n" and texts.stop is None
    assert pieces[-1] == "\n" and pieces[5] == "\nQx"


def test_the_first_of_several_stop_strings_counts():
    tokenizer = byte_level()
    tokenizer.add_tokens(["b cd"])
    texts = TextStream(tokenizer.decode, stops=["d", "c"])
    assert texts.push(tokenizer.token_to_id("a")) == "a"
    assert texts.push(tokenizer.token_to_id("b cd")) == "b "
    assert texts.stop == "c" and texts.push(tokenizer.token_to_id("a")) == texts.end() == ""
