"""FLOPs of whole steps against formulas that are written out here; equal to the last one."""

import dataclasses
import itertools
import math

import jax
import pytest

from mmjax.ops.attention import target_platform
from mmjax.ops.flops import count_flops
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.planning.flops import model_flops, remat_everywhere
from mmjax.planning.programs import ServingShape, train_step
from tests.planning.tiny_runs import DECODER, FAMILIES, VISION, tiny_run

ROWS, LENGTH, IMAGES, LAYERS, WIDTH = 4, 24, 2, DECODER["layers"], DECODER["width"]
# Times the FLOPs of a product: run forward, gradients through it, and gradients of its weights too.
ONLY_RUN, PASSED, TRAINED = 1, 2, 3
AGAIN = 1  # once more where it is computed again
# Products as large as the scores of an attention: forward, and with those of the gradients.
FORWARD, WITH_GRADIENTS = 2, 6

ALL_BUT_THE_NEW = (r"vision/.*", r"decoder/(layers|tail)/self_.*", r"decoder/(embedding|final_norm|unembedding).*")


def product(rows, *sizes):
    """A matrix product of `rows` vectors with a matrix; a multiplication and an addition are two."""
    return 2 * rows * math.prod(sizes)


def attended(products, pairs, heads, head_width, *, causal=False):
    """`products` of the size of the scores of so many pairs of a query and a key; of a causal square half."""
    return products * product(pairs, heads, head_width) // (2 if causal else 1)


def attention(config, inputs, queries, keys):
    """Weights of an attention of `queries` to `keys` vectors: query and out, key and value."""
    heads, kv_heads = (config.get(name, config["heads"]) * config["head_width"] for name in ("heads", "kv_heads"))
    return 2 * product(queries, WIDTH, heads) + 2 * product(keys, inputs, kv_heads)


def decoder_layer(rows, length, *, factor, down_factor=None, products=WITH_GRADIENTS, causal=True):
    """One layer of self-attention and feed-forward, whose last product may have a factor of its own."""
    tokens, mlp = rows * length, DECODER["mlp_width"]
    weights = attention(DECODER, WIDTH, tokens, tokens) + 2 * product(tokens, WIDTH, mlp)
    seen = attended(products, rows * length**2, DECODER["heads"], DECODER["head_width"], causal=causal)
    return factor * weights + (down_factor or factor) * product(tokens, WIDTH, mlp) + seen


def vision(pictures, places, factor, patches=4, projection=0):
    """The ViT of `VISION`, with no gradient to the pixels."""
    width, mlp, heads = VISION["width"], VISION["mlp_width"], VISION["heads"]
    weights = 4 * product(pictures * places, width, width) + 2 * product(pictures * places, width, mlp)
    seen = attended(FORWARD, pictures * places**2, heads, width // heads)
    stem = product(pictures * patches, VISION["patch_size"] ** 2 * 3, width)
    return factor * (VISION["layers"] * (weights + seen) + product(pictures, width, projection)) + (
        stem * (1 if factor == ONLY_RUN else 2)
    )


def resampler(*, factor, down_factor=None, products=WITH_GRADIENTS):
    """All layers, for all pictures."""
    config = FAMILIES["flamingo"]["resampler"]
    pictures, patches, latents = ROWS * IMAGES, 4, config["latents"]
    width, inner = config["width"], config["heads"] * config["head_width"]
    own = 4 * product(pictures * latents, width, inner) + product(pictures * latents, width, config["mlp_width"])
    down = product(pictures * latents, width, config["mlp_width"])
    media = 2 * product(pictures * patches, VISION["width"], inner)
    seen = attended(products, pictures * latents * (patches + latents), config["heads"], config["head_width"])
    return config["layers"] * (factor * (own + media) + (down_factor or factor) * down + seen)


def cross_attention(*, factor, products=WITH_GRADIENTS):
    """All gated cross-attention blocks, each with its feed-forward."""
    config = FAMILIES["flamingo"]["cross"]
    tokens, media = ROWS * LENGTH, ROWS * IMAGES * FAMILIES["flamingo"]["resampler"]["latents"]
    heads = config["attention"]
    weights = attention(heads, WIDTH, tokens, media) + 2 * product(tokens, WIDTH, config["mlp_width"])
    seen = attended(products, tokens * media // ROWS, heads["heads"], heads["head_width"])
    return LAYERS // config["every"] * (factor * weights + seen)


def loss(factor):
    return factor * product(ROWS * LENGTH, WIDTH, DECODER["vocab_size"])


def projection():
    config = FAMILIES["flamingo"]
    return TRAINED * product(ROWS * IMAGES * config["resampler"]["latents"], config["resampler"]["width"], WIDTH)


def test_flamingo_whose_language_model_is_frozen():
    run = tiny_run("flamingo", frozen=ALL_BUT_THE_NEW)
    assert model_flops(run, None)["train"] == (
        vision(ROWS * IMAGES, 4, ONLY_RUN)
        + resampler(factor=TRAINED)
        + projection()
        + cross_attention(factor=TRAINED)
        + LAYERS * decoder_layer(ROWS, LENGTH, factor=PASSED)
        + loss(PASSED)
    )


def test_all_of_flamingo_is_trained():
    run = tiny_run("flamingo")
    assert model_flops(run, None)["train"] == (
        vision(ROWS * IMAGES, 4, TRAINED)
        + resampler(factor=TRAINED)
        + projection()
        + cross_attention(factor=TRAINED)
        + LAYERS * decoder_layer(ROWS, LENGTH, factor=TRAINED)
        + loss(TRAINED)
    )


def connector():
    config, places = FAMILIES["inline"]["connector"], ROWS * IMAGES * 4
    # Frozen features need no gradient.
    return (TRAINED - 1) * product(places, VISION["width"], config["hidden"]) + TRAINED * product(
        places, config["hidden"], WIDTH
    )


@pytest.mark.parametrize("first_stage", [True, False])
def test_pictures_as_tokens(first_stage):
    """As LLaVA is trained: first the connector alone, then the language model too."""
    run = tiny_run("inline", frozen=("vision/.*", "decoder/.*") if first_stage else ("vision/.*",))
    factor = PASSED if first_stage else TRAINED
    assert model_flops(run, None)["train"] == (
        vision(ROWS * IMAGES, 4, ONLY_RUN)
        + connector()
        + LAYERS * decoder_layer(ROWS, LENGTH, factor=factor)
        + loss(factor)
    )


def test_two_towers():
    run, length, width = tiny_run("two_tower"), 12, FAMILIES["two_tower"]["text"]["projection"]
    # The cosines of all pairs are formed for each direction, and again for the gradients.
    contrast = 2 * (TRAINED + AGAIN) * product(ROWS * ROWS, width)
    assert model_flops(run, None) == {
        "train": vision(ROWS, 5, TRAINED, projection=width)
        + LAYERS * decoder_layer(ROWS, length, factor=TRAINED)
        + TRAINED * product(ROWS, WIDTH, width)
        + contrast
    }


def test_what_serves_looks_at_what_is_there():
    """A prompt at its own past, not at the places that the cache keeps for what follows; a new token at all of it."""
    prompt, new, rows = 16, 8, 3
    counts = model_flops(tiny_run("inline", length=prompt), ServingShape(rows, prompt, new))
    scores = product(rows, WIDTH, DECODER["vocab_size"])
    places = rows * IMAGES * 4
    widths = VISION["width"], FAMILIES["inline"]["connector"]["hidden"], WIDTH
    pictures = vision(rows * IMAGES, 4, ONLY_RUN) + sum(product(places, *pair) for pair in itertools.pairwise(widths))
    read = decoder_layer(rows, prompt, factor=ONLY_RUN, products=FORWARD)
    assert counts["prefill"] == pictures + LAYERS * read + scores
    written = decoder_layer(rows, 1, factor=ONLY_RUN, products=0)
    seen = attended(FORWARD, rows * (prompt + new), DECODER["heads"], DECODER["head_width"])
    assert counts["decode"] == LAYERS * (written + seen) + scores


def test_devices_and_parts_of_the_batch_change_nothing():
    plain = tiny_run("flamingo")
    cut = dataclasses.replace(plain, mesh=MeshConfig(data=2, fsdp=2, tensor=2), accumulate_steps=2)
    assert model_flops(cut, None) == model_flops(plain, None)


@pytest.mark.parametrize("devices", [1, 4])
def test_hardware_flops_tell_what_is_computed_again(devices):
    """A flamingo of which nothing is kept: each superblock and each layer of the resampler is run again.

    What a block ends with need not be: its last product only adds to the sum that goes on.
    """
    run = tiny_run("flamingo", frozen=ALL_BUT_THE_NEW, mesh={"data": devices})
    run = dataclasses.replace(
        run, model=dataclasses.replace(run.model, config=remat_everywhere(run.model.config, "full"))
    )
    mesh = make_mesh(run.mesh, jax.devices("cpu")[:devices])
    with target_platform("tpu"):
        step, plan, batch = train_step(run, mesh)
        counted = count_flops(step, plan.abstract, batch).total
    # Scores and values of all pairs: forward, forward again, scores for the third time, and four products of gradients.
    products = 2 + 2 + 1 + 4
    every = FAMILIES["flamingo"]["cross"]["every"]
    kinds = {"factor": PASSED + AGAIN, "products": products, "causal": False}
    inner = decoder_layer(ROWS, LENGTH, **kinds)
    last = decoder_layer(ROWS, LENGTH, down_factor=PASSED, **kinds)
    assert counted == (
        vision(ROWS * IMAGES, 4, ONLY_RUN)
        + resampler(factor=TRAINED + AGAIN, down_factor=TRAINED, products=products)
        + projection()
        + cross_attention(factor=TRAINED + AGAIN, products=products)
        + LAYERS // every * ((every - 1) * inner + last)
        + loss(PASSED)
    )
