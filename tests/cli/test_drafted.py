"""`mmjax generate --draft`: the text of the model alone, whatever proposes it."""

import json

import pytest

from tests.interop.test_pretrained import TEXT
from tests.interop.test_processing_prompts import tokenizer
from tests.parity.reference_models import build

pytestmark = pytest.mark.usefixtures("quick_programs")


def language_model(folder, seed, names, **settings):
    shape = {"vocab_size": len(names), **TEXT, "eos_token_id": names.eos_token_id, "pad_token_id": 0} | settings
    model = build("LlamaForCausalLM", "LlamaConfig", seed, **shape)
    model.save_pretrained(folder)
    names.save_pretrained(folder)
    return folder


def test_a_draft_changes_nothing_but_the_passes(mmjax, refused, tmp_path):
    model = language_model(tmp_path / "model", 3, tokenizer())
    draft = language_model(tmp_path / "draft", 4, tokenizer(), num_hidden_layers=1)
    asked = ("generate", "--model", model, "--prompt", "two dogs", "--max-tokens", 9, "--json")
    alone = json.loads(mmjax(*asked)[1])
    code, out, err = mmjax(*asked, "--draft", draft)
    assert code == 0, err
    drafted = json.loads(out)
    figures = drafted.pop("draft")
    assert drafted["tokens"] == alone["tokens"] and drafted["text"] == alone["text"]
    assert figures["proposed"] >= figures["accepted"] >= 0 and figures["passes"] <= 8
    itself = mmjax(*asked[:-1], "--draft", model, "--draft-tokens", 3)
    assert itself[1] == f"two dogs{alone['text']}\n"
    assert "6 of 6 proposals stayed: 9 tokens in 2 passes" in itself[2]
    # The folder's own settings count for both: an end that the model writes by itself, and a penalty below 1, which
    # keeps it at the words that stand there already, whatever its random weights are.
    for settings in ({"eos_token_id": alone["tokens"][4]}, {"repetition_penalty": 0.01, "eos_token_id": 2}):
        (model / "generation_config.json").write_text(json.dumps(settings))
        settled = json.loads(mmjax(*asked)[1])["tokens"]
        assert settled != alone["tokens"] and json.loads(mmjax(*asked, "--draft", draft)[1])["tokens"] == settled
    other = language_model(tmp_path / "other", 4, tokenizer(special=("<s>", "</s>", "<pad>")))
    assert "another tokenizer" in refused(*asked, "--draft", other)
    assert "leave --beams out" in refused(*asked, "--draft", draft, "--beams", 2)
