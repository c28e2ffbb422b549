"""Gated cross-attention and the Flamingo assembly: closed gates, who sees which picture, and what it adds up to."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core.batch import Batch
from mmjax.core.errors import ConfigError
from mmjax.layers.attention import AttentionConfig
from mmjax.models.connectors.resampler import ResamplerConfig
from mmjax.models.decoders.config import DecoderConfig, depth_plan
from mmjax.models.decoders.decoder import Decoder
from mmjax.models.encoders.vit import ViT, ViTConfig
from mmjax.models.flamingo import Flamingo, FlamingoConfig, last_images
from mmjax.models.fusion.gated import GatedCrossAttention, GatedCrossAttentionConfig
from mmjax.ops.images import normalize_images
from mmjax.ops.masks import AttentionMask
from mmjax.parallel.sharding import nested
from tests.models.plain_numpy import attention, below, layer_norm, linear, mlp, random_parameters
from tests.quick import quick_jit

LAYERS = 5
DECODER = DecoderConfig(
    vocab_size=40, width=20, layers=LAYERS, heads=4, head_width=6, mlp_width=28, kv_heads=2, windows=(4, None)
)
CROSS = GatedCrossAttentionConfig(AttentionConfig(3, 6), 24, gate_shape="channel")
CONFIG = FlamingoConfig(
    vision=ViTConfig(8, 4, 12, 2, 3, 16),
    resampler=ResamplerConfig(16, 1, 2, 8, 3, 24, max_frames=2),
    decoder=DECODER,
    cross=CROSS,
    project_media=True,
)


def packed_batch(frames=()):
    """Two rows. Row 0 packs two examples and padding; row 1 is one example whose second picture is absent.

    row 0  segment  1 1 1 1 1 1 2 2 2 2 . .     row 1  segment  1 1 1 1 1 1 1 1 1 1 1 1
           picture  0 1 1 2 2 2 0 3 3 3 . .            picture  0 0 1 1 1 2 2 2 3 3 3 3
    """
    random = np.random.default_rng(0)
    segments = np.array([[1] * 6 + [2] * 4 + [0] * 2, [1] * 12])
    media = np.array([[0, 1, 1, 2, 2, 2, 0, 3, 3, 3, 0, 0], [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3]])
    positions = np.array([[*range(6), *range(4), 0, 0], [*range(12)]])
    present = np.array([[True, True, True], [True, False, True]])
    return Batch(
        tokens=jnp.asarray(random.integers(1, 40, (2, 12)), jnp.int32),
        positions=jnp.asarray(positions, jnp.int32),
        segment_ids=jnp.asarray(segments, jnp.int32),
        targets=jnp.zeros((2, 12), jnp.int32),
        loss_weights=jnp.zeros((2, 12)),
        media_index=jnp.asarray(media, jnp.int32),
        images=jnp.asarray(random.integers(0, 256, (2, 3, *frames, 8, 8, 3)), jnp.uint8),
        image_mask=jnp.asarray(np.broadcast_to(present.reshape(2, 3, *(1 for _ in frames)), (2, 3, *frames))),
        dataset_ids=jnp.zeros(2, jnp.int32),
    )


@pytest.fixture(scope="module")
def flamingo():
    """A random Flamingo with open gates, its hidden states as a function of a batch, and the batch."""
    model, batch = Flamingo(CONFIG), packed_batch()
    parameters = random_parameters(model, 1, batch)
    apply = quick_jit(lambda parameters, batch: model.apply(nested(parameters), batch).hidden)
    return model, parameters, batch, apply


def places(layers, cycle):
    """Path and index of every self-attention layer, for superblocks of `cycle` layers."""
    whole = layers // cycle
    return [
        (f"layers/self_{i % cycle}", i // cycle) if i // cycle < whole else (f"tail/self_{i % cycle}", None)
        for i in range(layers)
    ]


def recut(parameters, old, new):
    """A decoder's parameters, cut into other superblocks; those of cross-attention are dropped."""
    recut = {path: value for path, value in parameters.items() if not path.startswith(("layers/", "tail/"))}
    stacks = {}
    for (prefix, index), (new_prefix, new_index) in zip(old, new, strict=True):
        for path, value in parameters.items():
            if path.startswith(prefix + "/"):
                path = new_prefix + path[len(prefix) :]
                stacks.setdefault(path, {})[new_index] = value if index is None else value[index]
    for path, slices in stacks.items():
        recut[path] = slices[None] if None in slices else jnp.stack([slices[i] for i in range(len(slices))])
    return recut


@pytest.mark.parametrize(("every", "windows"), [(1, (None,)), (1, (4, None)), (2, (None,)), (3, (4, None))])
def test_closed_gates_leave_the_language_model_as_it_is(every, windows):
    """Bit for bit, also where the superblocks of the two are cut differently, and in the tail."""
    decoder = dataclasses.replace(DECODER, windows=windows)
    config = dataclasses.replace(CONFIG, decoder=decoder, cross=dataclasses.replace(CROSS, every=every))
    model, batch = Flamingo(config), packed_batch()
    parameters = random_parameters(model, 1, batch)
    closed = {path: value * 0 if path.endswith("_gate") else value for path, value in parameters.items()}
    assert sum(path.endswith("_gate") for path in closed) >= 2
    seen = quick_jit(model.apply)(nested(closed), batch).hidden

    plain = Decoder(decoder)
    cuts = [depth_plan(LAYERS, len(windows), cycle).layers_per_superblock for cycle in (every, None)]
    language = {path[len("decoder/") :]: value for path, value in closed.items() if path.startswith("decoder/")}
    language = recut(language, places(LAYERS, cuts[0]), places(LAYERS, cuts[1]))
    alone = quick_jit(plain.apply)(nested(language), batch.tokens, batch.positions, batch.segment_ids).hidden
    assert np.array_equal(seen, alone)
    opened = quick_jit(model.apply)(nested(parameters), batch).hidden
    assert not np.allclose(opened, alone, atol=1e-2)


def test_block_equals_float64():
    """`x + tanh(a) attention(norm x)`, then `x + tanh(b) mlp(norm x)`; what looks at nothing gets the latter."""
    random = np.random.default_rng(0)
    x = random.normal(size=(1, 5, 20)).astype(np.float32)
    media = random.normal(size=(1, 6, 16)).astype(np.float32)
    looks_at, belongs_to = np.array([[0, 1, 1, 2, 2]], np.int32), np.array([[1, 1, 2, 2, 2, 0]], np.int32)
    mask = AttentionMask(query_segments=jnp.asarray(looks_at), key_segments=jnp.asarray(belongs_to))
    for config in (CROSS, dataclasses.replace(CROSS, gate_shape="scalar", activation="silu", mlp_gated=True)):
        block = GatedCrossAttention(config)
        p = random_parameters(block, 1, x, media, mask)
        ours, _ = quick_jit(block.apply)(nested(p), x, media, mask)
        q = {path: np.asarray(value, np.float64) for path, value in p.items()}
        heads = below(q, "attention")
        key, value = (linear(media[0].astype(np.float64), below(heads, name)) for name in ("key", "value"))
        y = x[0].astype(np.float64)
        sees = looks_at[0][:, None] == belongs_to[0][None]
        sees[0, 0] = True  # only so that the softmax has something; its result is not used
        attended = attention(layer_norm(y, below(q, "attention_norm"), 1e-5), key, value, heads, sees)
        attended[0] = 0
        y = y + np.tanh(q["attention_gate"]) * attended
        change = mlp(layer_norm(y, below(q, "mlp_norm"), 1e-5), below(q, "mlp"), config.activation)
        y = y + np.tanh(q["mlp_gate"]) * change
        np.testing.assert_allclose(ours[0], y, rtol=0, atol=2e-6 * np.abs(y).max())


@pytest.mark.parametrize("picture", [1, 2, 3])
def test_a_token_sees_its_own_picture_only(flamingo, picture):
    """In row 0 another picture changes its own tokens, and through self-attention later ones of the same example."""
    _, parameters, batch, apply = flamingo
    images = batch.images.at[0, picture - 1].set(255 - batch.images[0, picture - 1])
    before, after = apply(parameters, batch), apply(parameters, batch.replace(images=images))
    changed = np.abs(after - before).max(-1) > 0
    first = {1: 1, 2: 3, 3: 7}[picture]
    expected = np.zeros((2, 12), bool)
    expected[0, first : 6 if picture < 3 else 10] = True
    assert np.array_equal(changed, expected)


def test_absent_pictures_and_text_before_the_first_one_get_nothing(flamingo):
    """The picture that the mask leaves out may hold anything; its tokens are as those without a picture."""
    _, parameters, batch, apply = flamingo
    before = apply(parameters, batch)
    images = batch.images.at[1, 1].set(255 - batch.images[1, 1])
    assert np.array_equal(before, apply(parameters, batch.replace(images=images)))
    nothing = batch.media_index.at[1, 5:8].set(0)
    assert np.array_equal(before, apply(parameters, batch.replace(media_index=nothing)))
    all_other = apply(parameters, batch.replace(images=255 - batch.images))
    first = np.asarray(batch.media_index) > 0
    first = np.cumsum(first, axis=1) == 0
    assert np.array_equal(np.asarray(before)[first], np.asarray(all_other)[first])


def test_packing_changes_nothing(flamingo):
    """The second example of row 0 alone in a row, with its picture as number 1."""
    _, parameters, batch, apply = flamingo
    alone = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[:1]), batch)
    for name in ("tokens", "positions"):
        alone = alone.replace(**{name: getattr(alone, name).at[0, :4].set(getattr(batch, name)[0, 6:10])})
    alone = alone.replace(
        segment_ids=alone.segment_ids.at[0, :4].set(1),
        media_index=alone.media_index.at[0, 1:4].set(1),
        images=alone.images.at[0, 0].set(batch.images[0, 2]),
        image_mask=alone.image_mask.at[0, 0].set(True),
    )
    packed = np.asarray(apply(parameters, batch))[0, 6:10]
    np.testing.assert_allclose(np.asarray(apply(parameters, alone))[0, :4], packed, atol=2e-6 * np.abs(packed).max())


def test_a_frame_axis_of_one_is_a_picture(flamingo):
    _, parameters, batch, apply = flamingo
    video = batch.replace(images=batch.images[:, :, None], image_mask=batch.image_mask[:, :, None])
    assert np.array_equal(apply(parameters, batch), apply(parameters, video))
    frames = packed_batch(frames=(2,))
    half = frames.replace(image_mask=frames.image_mask.at[:, :, 1].set(False))
    other = half.replace(images=half.images.at[:, :, 1].set(0))
    assert np.array_equal(apply(parameters, half), apply(parameters, other))
    assert not np.array_equal(apply(parameters, frames), apply(parameters, half))


def test_the_text_may_look_at_the_features_themselves():
    """Without a resampler: as many vectors a picture as it has patches, frame by frame; absent frames are not seen."""
    config = dataclasses.replace(CONFIG, resampler=None)
    model, batch = Flamingo(config), packed_batch(frames=(2,))
    parameters = random_parameters(model, 1, batch)
    assert not any(path.startswith("resampler/") for path in parameters)
    mask = batch.image_mask.at[0, 1, 1].set(False)
    encode = quick_jit(lambda images: model.apply(nested(parameters), images, mask, method="encode"))
    media = encode(batch.images)
    patches = config.vision.grid**2
    expected = np.array([[1, 1, 2, 0, 3, 3], [1, 1, 0, 0, 3, 3]]).repeat(patches, axis=1)
    assert np.array_equal(media.segments, expected)
    assert media.features.shape == (2, 3 * 2 * patches, DECODER.width)
    pixels = normalize_images(batch.images[0, 1, :1], config.image_mean, config.image_std, jnp.float32)
    features = ViT(config.vision).apply(nested(below_vision(parameters)), pixels).features[0]
    features = features @ parameters["media_projection/kernel"]
    np.testing.assert_allclose(media.features[0, 2 * patches : 3 * patches], features, rtol=0, atol=1e-5)


def below_vision(parameters):
    return {path.removeprefix("vision/"): value for path, value in parameters.items() if path.startswith("vision/")}


def test_pictures_that_are_normalised_already(flamingo):
    model, parameters, batch, _ = flamingo
    pixels = normalize_images(batch.images, CONFIG.image_mean, CONFIG.image_std, jnp.float32)

    def encode(images, method):
        return quick_jit(lambda images: model.apply(nested(parameters), images, batch.image_mask, method=method))(
            images
        )

    ours, expected = encode(pixels, "encode_normalized"), encode(batch.images, "encode")
    np.testing.assert_allclose(ours.features, expected.features, rtol=0, atol=1e-5)
    assert np.array_equal(ours.segments, expected.segments)


def test_who_looks_at_what_spelt_out(flamingo):
    """`media_allowed` may say the same as `media_index`, or more than that."""
    model, parameters, batch, apply = flamingo
    media = model.apply(nested(parameters), batch.images, batch.image_mask, method="encode")
    same = (batch.media_index[:, :, None] == media.segments[:, None, :]) & (batch.media_index > 0)[:, :, None]
    all_before = (batch.media_index[:, :, None] >= media.segments[:, None, :]) & (media.segments > 0)[:, None, :]

    def decode(allowed):
        text = (batch.tokens, batch.positions, batch.segment_ids, media)
        return model.apply(nested(parameters), *text, media_allowed=allowed, method="decode").hidden

    expected = np.asarray(apply(parameters, batch))
    decode = quick_jit(decode)
    np.testing.assert_allclose(decode(same), expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    changed = np.abs(np.asarray(decode(all_before)) - expected).max(-1) > 1e-3
    assert changed[0, 3:6].all() and not changed[0, :3].any()


def test_last_images():
    """The grid of its docstring."""
    assert last_images(jnp.asarray([[5, 9, 6, 7, 9, 9, 8]]), 9).tolist() == [[0, 1, 1, 1, 2, 3, 3]]


def test_rows_added_to_the_vocabulary():
    """Two tables are as one: the same hidden states and logits as the tables joined."""
    for tied in (True, False):
        plain = dataclasses.replace(DECODER, tied_embeddings=tied)
        batch = packed_batch()
        inputs = (batch.tokens, batch.positions, batch.segment_ids)
        model = Decoder(dataclasses.replace(plain, added_vocab=3))
        parameters = random_parameters(model, 1, *inputs)
        names = [name for name in ("embedding", "unembedding") if name in parameters]
        assert len(names) == 2 - tied and parameters["added_embedding"].shape == (3, DECODER.width)
        joined = {path: value for path, value in parameters.items() if not path.startswith("added_")}
        joined |= {name: jnp.concatenate([parameters[name], parameters[f"added_{name}"]]) for name in names}
        ours = quick_jit(model.apply)(nested(parameters), *inputs)
        expected = quick_jit(Decoder(plain).apply)(nested(joined), *inputs)
        assert np.array_equal(ours.hidden, expected.hidden) and np.array_equal(ours.unembedding, expected.unembedding)
    with pytest.raises(ConfigError, match="added_vocab is a part of the vocabulary"):
        dataclasses.replace(DECODER, added_vocab=DECODER.vocab_size)


def test_a_decoder_takes_media_where_it_has_cross_attention_only():
    tokens = jnp.zeros((1, 2), jnp.int32)
    with pytest.raises(ConfigError, match="needs media"):
        Decoder(DECODER, CROSS).init(jax.random.key(0), tokens, tokens, tokens)
