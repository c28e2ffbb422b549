"""A released folder run by our code answers as transformers does, whatever it is asked beside."""

from __future__ import annotations

import numpy as np
import pytest

from mmjax.core.errors import InputError
from mmjax.core.example import Text
from mmjax.decoding.prompt import Prompt
from mmjax.evaluation.benchmark_questions import BenchmarkQuestions
from mmjax.evaluation.harness import evaluate
from mmjax.evaluation.models.released import ReleasedModel
from mmjax.evaluation.models.transformers_model import TransformersModel
from mmjax.evaluation.models.weights import digest_of_folder
from mmjax.evaluation.predictions import MemoryStore
from mmjax.evaluation.settings import Options
from mmjax.interop.pretrained import load_pretrained
from tests.evaluation.made import RANKED, WRITTEN, write_files
from tests.evaluation.models.test_transformers_model import CLIP, PICTURES, PROMPT, TEXT, VISION, silent
from tests.interop.test_pretrained import llava, open_flamingo
from tests.interop.test_processing_prompts import pictures_side, tokenizer
from tests.parity.reference_models import build, transformers

pytestmark = pytest.mark.usefixtures("quick_programs")
SHORT = Prompt((PICTURES[1], Text(" a")))
ANSWERS = [Text(" car"), Text(" house, and two dogs"), Text(" b", end_of_chunk=True)]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llava")
    llava(folder)
    return ReleasedModel(load_pretrained(folder)), TransformersModel(folder)


def test_it_writes_and_rates_as_transformers(both):
    ours, theirs = both
    prompts = [PROMPT, SHORT, PROMPT]
    asked = {"max_tokens": 8, "beams": 1, "progress": silent}
    whole = theirs.write(prompts, stop=(), **asked)
    assert ours.write(prompts, stop=(), **asked) == whole
    stop = whole[0][2:4]
    assert ours.write(prompts, stop=[stop], **asked) == theirs.write(prompts, stop=[stop], **asked)
    done = []
    rated = ours.rate(prompts, [ANSWERS, ANSWERS[:1], ANSWERS], progress=done.append)
    expected = theirs.rate(prompts, [ANSWERS, ANSWERS[:1], ANSWERS], progress=silent)
    for own, other in zip(rated, expected, strict=True):
        np.testing.assert_allclose(own.log_likelihoods, other.log_likelihoods, atol=1e-4)
        assert own.lengths == other.lengths
    assert sum(done) == 3
    with pytest.raises(InputError, match="has no token"):
        ours.rate([SHORT], [[Text("")]], progress=silent)
    with pytest.raises(InputError, match="no tower of texts"):
        ours.embed_texts(["a"], progress=silent)
    np.testing.assert_allclose(
        ours.embed_pictures(PICTURES, progress=silent), theirs.embed_pictures(PICTURES, progress=silent), atol=1e-5
    )


def test_open_flamingo_answers_as_when_it_is_called(tmp_path):
    """Chunks end with its own token, and continuations are rated by the logits of whole rows."""
    open_flamingo(tmp_path / "it")
    loaded = load_pretrained(tmp_path / "it")
    ours, laid = ReleasedModel(loaded), "<image> a red car<|endofchunk|><image> a blue"
    pictures = [medium.load()[0] for medium in PICTURES]
    expected = loaded.answer([laid], [pictures], max_new_tokens=4)
    assert ours.write([PROMPT, SHORT], max_tokens=4, stop=(), beams=1, progress=silent)[:1] == expected
    [rated] = ours.rate([PROMPT], [ANSWERS], progress=silent)
    for text, found in zip(ANSWERS, rated.log_likelihoods, strict=True):
        whole = loaded.prepare([laid + text.text + "<|endofchunk|>" * text.end_of_chunk], [pictures])
        start = loaded.prepare([laid], [pictures])["lang_x"].shape[1]
        tokens = whole["lang_x"][0, start:]
        logits = np.asarray(loaded(**whole)["logits"], np.float64)[0, start - 1 : -1]
        chosen = np.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0]
        np.testing.assert_allclose(found, np.sum(chosen - np.log(np.exp(logits).sum(-1))), atol=1e-4)


def test_a_benchmark_comes_out_the_same(both, tmp_path):
    data = write_files(tmp_path / "data", test=3, train=6)
    options = Options(shots=(1,), seeds=1, controls=("relabelled",))
    found = []
    for model in both:
        store = MemoryStore()
        tasks = [
            BenchmarkQuestions(one, data, options, embed=model.embed_pictures, encoder=str, cache=None)
            for one in (WRITTEN, RANKED)
        ]
        rows = evaluate(model, tasks, options, store=store, results=tmp_path / model.name[-5:], progress=False).rows
        found.append((rows, list(store.rows())))
    (ours, own), (theirs, other) = found
    assert ours == theirs and len(own) == 12
    for one, two in zip(own, other, strict=True):
        told = [list((row.pop("candidates") or {}).values()) for row in (one, two)]
        np.testing.assert_allclose(*told, atol=3e-4)
        assert one == two


def test_two_towers_compare_pictures_with_texts(tmp_path):
    names = tokenizer()
    text = {"vocab_size": len(names), **TEXT, "max_position_embeddings": 30, "eos_token_id": names.eos_token_id}
    build("CLIPModel", "CLIPConfig", 5, vision_config=VISION, text_config=text, projection_dim=18).save_pretrained(
        tmp_path
    )
    transformers.CLIPProcessor(pictures_side("CLIPImageProcessor", **CLIP), names).save_pretrained(tmp_path)
    ours, theirs = ReleasedModel(load_pretrained(tmp_path)), TransformersModel(tmp_path)
    texts = ["a cat</s>", "two dogs in the shade</s>"]
    np.testing.assert_allclose(
        ours.embed_pictures(PICTURES, progress=silent), theirs.embed_pictures(PICTURES, progress=silent), atol=1e-5
    )
    np.testing.assert_allclose(
        ours.embed_texts(texts, progress=silent), theirs.embed_texts(texts, progress=silent), atol=1e-5
    )
    with pytest.raises(InputError, match="does not write"):
        ours.write([PROMPT], max_tokens=1, stop=(), beams=1, progress=silent)
    before = digest_of_folder(tmp_path)
    weights = tmp_path / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert digest_of_folder(tmp_path) != before
