"""Models whose pictures stand in the text write what their plain forward pass, as it is trained, says next."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core.errors import InputError
from mmjax.core.example import Example, Media, Text
from mmjax.data.assemble import BatchShape, assemble, read_example
from mmjax.decoding.generate import generate
from mmjax.decoding.logits import stop_tokens, writable_tokens
from mmjax.decoding.prompt import Prompt
from mmjax.models.families import family_of
from mmjax.parallel.sharding import abstract_parameters, nested
from mmjax.training.load import abstract_batch, build_model
from tests.quick import quick_jit
from tests.training.tiny_runs import tiny_config

pytestmark = pytest.mark.usefixtures("quick_programs")

NEW, LENGTH, IMAGES = 6, 96, 2


def picture(seed, side):
    return Media((np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8),))


def plain_greedy(config, model, params, tokenizer, prompt):
    """By the training's own arrays: what is written is what the loss would be of."""
    shape = BatchShape(1, LENGTH, IMAGES, 1, config.data.image_size)
    segments = tuple(
        Text(one.text, loss=False, end_of_chunk=one.end_of_chunk) if isinstance(one, Text) else one
        for one in prompt.segments
    )
    example = read_example(Example("prompt", segments), tokenizer, shape, next_image=False, layout=config.data.layout)
    start = len(example.text.tokens) - 1  # the token that ends it is not the prompt's
    batch = assemble([[example]], [0], [1.0], shape, tokenizer, no_loss_before_first_image=False)
    forward = quick_jit(lambda batch: model.apply(nested(params), batch, method=family_of(model).reader).logits())
    writable, written = writable_tokens(tokenizer, model.config.decoder.vocab_size), []
    while len(written) < NEW and not set(written) & set(stop_tokens(tokenizer)):
        stop = start + len(written)
        place = np.arange(LENGTH)[None]
        there, ours = place < stop, place >= start
        tokens = np.where(there, batch.tokens, 0)
        tokens[0, start:stop] = written
        now = batch.replace(
            tokens=tokens,
            segment_ids=there.astype(np.int32),
            positions=np.where(there, place, 0).astype(np.int32),
            media_index=np.where(there, np.where(ours, example.text.images, batch.media_index), 0).astype(np.int32),
            loss_weights=(there & (place >= start - 1)).astype(np.float32),
        )
        scores = np.asarray(forward(jax.tree.map(jnp.asarray, now)))[0, stop - 1]
        written.append(int(np.where(writable, scores, -np.inf).argmax()))
    return written


@pytest.mark.parametrize("name", ["llava_1_5_7b", "paligemma_3b"])
def test_greedy_is_the_plain_loop(name):
    config = tiny_config(name=name)
    model, tokenizer = build_model(config)
    shapes, _ = abstract_parameters(
        lambda key, batch: model.init(key, batch, method=family_of(model).reader),
        jax.random.key(0),
        abstract_batch(config.data, 1),
    )
    random = np.random.default_rng(1)
    params = {
        path: jnp.asarray(float(path.endswith("scale")) + 0.3 * random.normal(size=shape.shape), jnp.float32)
        for path, shape in sorted(shapes.items())
    }
    side = config.data.image_size
    prompts = [
        Prompt((picture(0, side), Text("what is it? "))),
        Prompt((picture(1, side), Text("a dax. "), picture(2, side), Text("a "))),
        Prompt((Text("no picture"),)),
    ]
    written = generate(model, params, tokenizer, prompts, max_tokens=NEW, layout=config.data.layout)
    for prompt, one in zip(prompts, written, strict=True):
        assert one.tokens.tolist() == plain_greedy(config, model, params, tokenizer, prompt)
    assert len({one.text for one in written}) > 1


def test_videos_and_models_without_text_are_refused():
    config = tiny_config(name="llava_1_5_7b")
    model, tokenizer = build_model(config)
    side = config.data.image_size
    clip = Prompt((Media((np.zeros((side, side, 3), np.uint8),) * 2),))
    with pytest.raises(InputError, match="have one frame"):
        generate(model, {}, tokenizer, [clip], layout=config.data.layout)
    towers, tokenizer = build_model(tiny_config(name="siglip_so400m"))
    with pytest.raises(InputError, match="a TwoTower writes no text"):
        generate(towers, {}, tokenizer, [Prompt((Text("a"),))])
