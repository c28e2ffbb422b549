import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core.batch import Batch
from mmjax.core.errors import InputError
from mmjax.core.paths import flatten
from mmjax.layers.attention import AttentionConfig
from mmjax.models.connectors.resampler import ResamplerConfig
from mmjax.models.decoders.config import DecoderConfig
from mmjax.models.encoders.vit import ViTConfig
from mmjax.models.flamingo import Flamingo, FlamingoConfig
from mmjax.models.fusion.gated import GatedCrossAttentionConfig
from mmjax.parallel.sharding import abstract_parameters, nested
from mmjax.reporting.attention import Place, answer_places, attention_maps, patch_shares
from mmjax.text.tokenizer import ByteTokenizer

TOKENIZER = ByteTokenizer()
SIDE, PATCH, LATENTS, LAYERS = 16, 4, 3, 2
CONFIG = FlamingoConfig(
    vision=ViTConfig(SIDE, PATCH, width=16, layers=1, heads=2, mlp_width=16),
    resampler=ResamplerConfig(16, LAYERS, heads=2, head_width=8, latents=LATENTS, mlp_width=16, max_frames=2),
    # Three layers with a block before every second: one superblock in the scan, and a tail with a block of its own.
    decoder=DecoderConfig(vocab_size=261, width=16, layers=3, heads=2, head_width=8, mlp_width=16),
    cross=GatedCrossAttentionConfig(
        AttentionConfig(heads=4, head_width=8, kv_heads=2, scale=0.9, softcap=3.0), mlp_width=16, every=2, gate_init=0.5
    ),
)


def text_row(*segments):
    """tokens, positions, segment_ids, targets, loss_weights, media_index of packed `I<picture> q>a` examples."""
    columns = [[] for _ in range(6)]
    media = 0
    for number, turns in enumerate(segments, 1):
        tokens, learned, looks = [TOKENIZER.special["bos"]], [0], [0]
        for question, answer in turns:
            media += 1
            ids = TOKENIZER.encode(question), TOKENIZER.encode(answer)
            tokens += [TOKENIZER.special["image"], *ids[0], *ids[1], TOKENIZER.special["end_of_chunk"]]
            learned += [0] * (1 + len(ids[0])) + [1] * (len(ids[1]) + 1)
            looks += [media] * (len(ids[0]) + len(ids[1]) + 2)
        rows = (
            tokens,
            range(len(tokens)),
            [number] * len(tokens),
            [*tokens[1:], 0],
            [*learned[1:], 0],
            looks,
        )
        for column, values in zip(columns, rows, strict=True):
            column.extend(values)
    return columns


def make_batch(rows, images, image_mask):
    length = max(len(row[0]) for row in rows)
    columns = [np.array([list(row[k]) + [0] * (length - len(row[k])) for row in rows], np.int32) for k in range(6)]
    columns[4] = columns[4].astype(np.float32)
    return Batch(*columns, images=images, image_mask=image_mask, dataset_ids=np.zeros(len(rows), np.int32))


def pictures(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def packed():
    """Two packed examples in the first row (three pictures), one in the second (of two places, one picture)."""
    rows = [
        text_row([("", "7."), ("", "3.")], [("this is a", " dax.")]),
        text_row([("what is here?", " 4.")]),
    ]
    mask = np.array([[True, True, True], [True, False, False]])
    return make_batch(rows, pictures(2, 3), mask)


def random_params(model, batch):
    """Parameters of any size, without compiling the model's own start; large ones, so that attention is not even."""
    shapes, _ = abstract_parameters(model.init, jax.random.key(0), batch)
    rng = np.random.default_rng(0)
    return {
        path: np.float32(rng.normal(path.endswith("scale"), 0.3, leaf.shape)) for path, leaf in sorted(shapes.items())
    }


@pytest.fixture(scope="module")
def params(packed):
    return random_params(Flamingo(CONFIG), packed)


def softmax(scores):
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


@functools.partial(jax.jit, static_argnums=0)
def run(model, params, batch):
    """Output, and the sown queries and keys by path."""
    output, sown = model.apply(nested(params), batch, mutable=["attention"])
    return output, {path: value[0] for path, value in flatten(sown["attention"]).items()}


def dense_shares(model, seen, batch, place):
    """The same by full grids, one head and one layer at a time, in float64."""
    seen = {path: np.asarray(value, np.float64) for path, value in seen.items()}
    row, position = place
    images = batch.images.shape[1]
    frames = batch.image_mask.reshape(2, images, -1)
    cross = model.config.cross.attention
    blocks = [seen["decoder/layers/cross_0/attention/" + name][0] for name in ("queries", "keys")]
    tail = [seen["decoder/tail/cross_0/attention/" + name] for name in ("queries", "keys")]
    numbers = np.repeat(np.arange(1, images + 1) * frames[row].any(-1), LATENTS)
    token = np.zeros(len(numbers))
    for query, key in (blocks, tail):
        for head in range(cross.heads):
            scores = query[row, position, head] @ key[row, :, head // (cross.heads // cross.kv_heads)].T * cross.scale
            scores = cross.softcap * np.tanh(scores / cross.softcap)
            token += softmax(np.where(numbers == batch.media_index[row, position], scores, -np.inf)) / (2 * cross.heads)
    media = batch.media_index[row, position] - 1
    assert token.sum() == pytest.approx(1)
    assert token[media * LATENTS : (media + 1) * LATENTS].sum() == pytest.approx(1)
    query, key = (seen["resampler/layers/attention/" + name][:, row * images + media] for name in ("queries", "keys"))
    patches = key.shape[1] - LATENTS
    unseen = np.repeat(~frames[row, media], patches // frames.shape[2])
    # All that flows: patches keep themselves, latents keep half of themselves and read the rest.
    flow = np.eye(patches + LATENTS)
    for layer in range(LAYERS):
        weights = np.zeros((LATENTS, patches + LATENTS))
        for head in range(2):
            scores = query[layer, :, head] @ key[layer, :, head].T * 8**-0.5
            scores[:, :patches][:, unseen] = -np.inf
            weights += softmax(scores) / 2
        step = np.eye(patches + LATENTS)
        step[patches:] = (step[patches:] + weights) / 2
        flow = step @ flow
    shares = token[media * LATENTS : (media + 1) * LATENTS] @ flow[patches:, :patches]
    return (shares / shares.sum()).reshape(frames.shape[2], -1)


PLACES = [Place(0, 5), Place(0, 20), Place(1, 15)]


def test_shares_equal_a_dense_recomputation(packed, params):
    rows, positions = np.array(PLACES).T
    model = Flamingo(CONFIG)
    got = patch_shares(model, params, packed, rows, positions)
    _, seen = run(model, params, packed)
    assert got.shape == (len(PLACES), 1, (SIDE // PATCH) ** 2)
    for place, shares in zip(PLACES, got, strict=True):
        expected = dense_shares(model, seen, packed, place)
        assert expected.max() > 1.5 * expected.mean(), "an even look would test nothing"
        np.testing.assert_allclose(shares, expected, rtol=1e-3, atol=1e-6)


def test_shares_of_shared_keys_and_video_leave_absent_frames_out(packed, params):
    batch = packed.replace(
        images=pictures(2, 3, 2),
        image_mask=np.array([[[1, 1], [1, 0], [1, 1]], [[1, 0], [0, 0], [0, 0]]], bool),
    )
    config = dataclasses.replace(CONFIG, resampler=dataclasses.replace(CONFIG.resampler, shared_kv=True))
    model = Flamingo(config)
    own = random_params(model, batch)
    rows, positions = np.array(PLACES).T
    got = patch_shares(model, own, batch, rows, positions)
    _, seen = run(model, own, batch)
    for place, shares in zip(PLACES, got, strict=True):
        np.testing.assert_allclose(shares, dense_shares(model, seen, batch, place), rtol=1e-3, atol=1e-6)
    assert np.all(np.asarray(got[0, 1]) == 0) and np.all(np.asarray(got[1, 1]) > 0)
    maps = attention_maps(model, own, batch, PLACES, TOKENIZER)
    assert [one.picture.shape for one in maps] == [(16, 16, 3), (16, 32, 3), (16, 16, 3)]


def test_a_map_shows_only_the_tokens_own_picture(packed, params):
    model = Flamingo(CONFIG)
    before = attention_maps(model, params, packed, PLACES, TOKENIZER)[1]
    np.testing.assert_array_equal(before.picture, packed.images[0, 2])
    assert before.heat.shape == (SIDE, SIDE) and before.heat.min() >= 0
    assert before.heat.mean() == pytest.approx(1, abs=1e-5)
    other = packed.replace(images=np.concatenate([pictures(2, 2)[::-1], packed.images[:, 2:]], axis=1))
    after = attention_maps(model, params, other, PLACES, TOKENIZER)[1]
    np.testing.assert_allclose(after.heat, before.heat, atol=1e-5)


def test_texts_of_a_map(packed, params):
    places = answer_places(packed, TOKENIZER, limit=10)
    assert places == [Place(0, 5), Place(0, 20), Place(1, 15)], "the visible start of each example's last answer"
    assert answer_places(packed, TOKENIZER, limit=2) == places[:2]
    model = Flamingo(CONFIG)
    maps = attention_maps(model, params, packed, places, TOKENIZER)
    assert [one.answer for one in maps] == ["3.", "dax.", "4."]
    assert [one.prompt for one in maps] == ["▣7.▣", "▣this is a ", "▣what is here? "]
    output, _ = run(model, params, packed)
    logits = output.hidden @ output.unembedding.T
    for one, (row, position), length in zip(maps, places, (3, 5, 3), strict=True):
        predicted = np.asarray(jnp.argmax(logits[row, position : position + length], axis=-1))
        assert one.prediction == TOKENIZER.decode(predicted).strip()
        assert one.token == TOKENIZER.decode(predicted[:1])
        assert one.correct is (one.prediction == one.answer)


def test_an_answer_that_is_not_known_is_neither_right_nor_wrong(packed, params):
    batch = packed.replace(loss_weights=np.zeros_like(packed.loss_weights))
    maps = attention_maps(Flamingo(CONFIG), params, batch, PLACES, TOKENIZER)
    assert all(one.answer == "" and one.correct is None for one in maps)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (Place(0, 0), "row 0, position 0 looks at no picture"),
        (Place(1, 99), "row 1, position 99 is not in a batch of 2 rows"),
        (Place(-1, 1), "row -1, position 1 is not in a batch of 2 rows"),
    ],
)
def test_places_without_a_picture_are_refused(packed, params, place, message):
    with pytest.raises(InputError, match=message):
        attention_maps(Flamingo(CONFIG), params, packed, [Place(0, 1), place], TOKENIZER)


def test_an_absent_picture_is_refused(packed, params):
    batch = packed.replace(image_mask=np.zeros_like(packed.image_mask))
    with pytest.raises(InputError, match="looks at no picture"):
        attention_maps(Flamingo(CONFIG), params, batch, [Place(0, 1)], TOKENIZER)


def test_no_places_no_maps(packed, params):
    assert attention_maps(Flamingo(CONFIG), params, packed, [], TOKENIZER) == []
