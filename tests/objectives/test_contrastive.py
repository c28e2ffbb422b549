"""The contrastive losses against float64 and transformers, and the same over many devices as on one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mmjax.core.batch import Batch
from mmjax.core.errors import ConfigError
from mmjax.models.two_tower import Pairs
from mmjax.objectives.contrastive import (
    SigmoidContrastiveConfig,
    SoftmaxContrastiveConfig,
    pair_weights,
    sigmoid_contrastive_loss,
    softmax_contrastive_loss,
)
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.parallel.sharding import use_mesh
from tests.quick import quick_jit

ROWS, WIDTH = 16, 6
LOSSES = {
    "softmax": (softmax_contrastive_loss, SoftmaxContrastiveConfig()),
    "sigmoid": (sigmoid_contrastive_loss, SigmoidContrastiveConfig()),
}
MESHES = [{"data": 8}, {"data": 2, "fsdp": 4}, {"slice": 2, "data": 2, "tensor": 2}, {"data": 4, "sequence": 2}]
each_loss = pytest.mark.parametrize("name", LOSSES)


def make_batch(dataset_ids=(0,) * ROWS, no_picture=(), no_text=()):
    zeros = np.zeros((ROWS, 3), np.int32)
    segments, present = np.ones_like(zeros), np.ones((ROWS, 1), bool)
    segments[list(no_text)], present[list(no_picture)] = 0, False
    weights = np.zeros((ROWS, 3), np.float32)
    pictures = np.zeros((ROWS, 1, 2, 2, 3), np.uint8)
    return Batch(zeros, zeros, segments, zeros, weights, zeros, pictures, present, np.array(dataset_ids, np.int32))


def make_pairs(seed=0, scale=7.0, bias=-2.0):
    """Pairs whose halves are alike, most of them enough to find each other."""
    random = np.random.default_rng(seed)
    images = random.standard_normal((ROWS, WIDTH))
    texts = images + 0.6 * random.standard_normal((ROWS, WIDTH))
    images, texts = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (images, texts))
    return Pairs(*(jnp.asarray(x, jnp.float32) for x in (images, texts, scale, bias)))


def value(name, pairs, batch, dataset_weights=(1.0,), **settings):
    loss, config = LOSSES[name]
    weights = pair_weights(batch, dataset_weights)
    config = dataclasses.replace(config, **settings)
    return loss(pairs, batch, weights, config, datasets=len(dataset_weights))


def expected_rows(name, pairs, there):
    """Each row's loss (the mean of both directions), and whether each direction finds its pair; in float64."""
    images, texts, scale, bias = (np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(pairs))
    shift = bias if name == "sigmoid" else 0
    logits = np.where(there[None] & there[:, None], images @ texts.T * scale + shift, -1e30)
    if name == "softmax":
        sides = [np.log(np.exp(x).sum(1)) - np.diag(x) for x in (logits, logits.T)]
    else:
        signs = 2 * np.eye(ROWS) - 1
        sides = [np.log1p(np.exp(-signs * x)).sum(1) for x in (logits, logits.T)]
    found = [x.argmax(1) == np.arange(ROWS) for x in (logits, logits.T)]
    return np.where(there, np.mean(sides, axis=0), 0), [there & right for right in found]


@each_loss
@pytest.mark.parametrize("chunk_size", [1024, 5])
def test_the_loss_is_that_of_float64(name, chunk_size):
    """Two data sets with weights of their own, and rows that are no pairs."""
    kinds = np.array([0, 1] * (ROWS // 2))
    batch = make_batch(kinds, no_picture=[3, 4], no_text=[4, 9])
    there = ~np.isin(np.arange(ROWS), [3, 4, 9])
    pairs = make_pairs()
    with np.errstate(over="ignore", divide="ignore"):
        rows, found = expected_rows(name, pairs, there)
    loss, tally = quick_jit(lambda p: value(name, p, batch, (1.0, 0.3), chunk_size=chunk_size))(pairs)
    means = [rows[there & (kinds == kind)].mean() for kind in (0, 1)]
    if name == "softmax":
        np.testing.assert_allclose(loss, means[0] + 0.3 * means[1], rtol=1e-6)
    for kind in (0, 1):
        own = there & (kinds == kind)
        assert float(tally.weight[kind]) == own.sum()
        np.testing.assert_allclose(tally.nll[kind], rows[own].sum(), rtol=1e-5)
        for score, right in zip(("image_to_text_accuracy", "text_to_image_accuracy"), found, strict=True):
            assert 0 < float(tally.scores[score][kind]) == right[own].sum()
    assert any(right.sum() < there.sum() for right in found)  # some are wrong, or nothing is compared


@each_loss
def test_the_loss_and_its_gradients_are_those_of_transformers(name, torch):
    pairs, batch = make_pairs(), make_batch()
    images, texts, scale, bias = (torch.tensor(np.asarray(leaf), requires_grad=True) for leaf in jax.tree.leaves(pairs))
    if name == "softmax":
        from transformers.models.clip.modeling_clip import image_text_contrastive_loss

        reference = image_text_contrastive_loss(texts @ images.T * scale)
    else:  # as SiglipModel.forward has it
        logits = texts @ images.T * scale + bias
        signs = 2 * torch.eye(ROWS) - 1
        reference = -torch.nn.functional.logsigmoid(signs * logits).sum(-1).mean()
    reference.backward()
    loss, gradients = quick_jit(jax.value_and_grad(lambda p: value(name, p, batch)[0]))(pairs)
    np.testing.assert_allclose(loss, reference.item(), rtol=1e-6)
    wanted = {"image_embeddings": images, "text_embeddings": texts, "scale": scale, "bias": bias}
    for field, tensor in wanted.items():
        expected = np.zeros(tensor.shape) if tensor.grad is None else tensor.grad.numpy()
        np.testing.assert_allclose(getattr(gradients, field), expected, atol=1e-6, err_msg=field)


@pytest.mark.parametrize(("name", "family"), [("softmax", "CLIP"), ("sigmoid", "Siglip")])
def test_a_model_of_transformers_gives_this_loss(name, family, torch):
    import transformers

    tower = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision, text = {"image_size": 4, "patch_size": 2}, {"vocab_size": 40, "projection_size": 8, "eos_token_id": 39}
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(text_config=tower | text, vision_config=tower | vision)
    reference = getattr(transformers, f"{family}Model")(config)
    with torch.no_grad():
        tokens = torch.randint(3, 39, (ROWS, 4))
        output = reference(input_ids=tokens, pixel_values=torch.randn(ROWS, 3, 4, 4), return_loss=True)
        scale = reference.logit_scale.exp().reshape(())
        bias = reference.logit_bias.reshape(()) if name == "sigmoid" else torch.zeros(())
    halves = (output.image_embeds, output.text_embeds, scale, bias)
    pairs = Pairs(*(jnp.asarray(half.detach().numpy()) for half in halves))
    np.testing.assert_allclose(value(name, pairs, make_batch())[0], output.loss.item(), rtol=1e-6)


@each_loss
@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_eight_devices_are_one(name, mesh):
    """Each device has its own rows; chunks, absent rows and two data sets as well."""
    batch = make_batch([0, 1] * (ROWS // 2), no_picture=[3], no_text=[9])
    pairs = make_pairs()

    def function(pairs):
        return value(name, pairs, batch, (1.0, 0.3), chunk_size=2)

    both = jax.value_and_grad(function, has_aux=True)
    (loss, tally), gradients = quick_jit(both)(pairs)
    devices = make_mesh(MeshConfig(**{"data": 1} | mesh), jax.devices())
    by_row = NamedSharding(devices, PartitionSpec(("slice", "data", "fsdp")))
    whole = NamedSharding(devices, PartitionSpec())
    spread = jax.device_put(pairs, Pairs(by_row, by_row, whole, whole))
    with use_mesh(devices):
        (other_loss, other_tally), others = jax.block_until_ready(quick_jit(both)(spread))
    np.testing.assert_allclose(other_loss, loss, rtol=1e-5)
    for one, many in zip(jax.tree.leaves((tally, gradients)), jax.tree.leaves((other_tally, others)), strict=True):
        np.testing.assert_allclose(many, one, atol=1e-5)
    assert float(jnp.abs(gradients.image_embeddings[0]).max()) > 1e-3


@each_loss
def test_no_device_holds_all_pairs(name):
    """The largest array of the compiled program is that of a device's rows, not the square of the batch."""
    pairs, batch = make_pairs(), make_batch()
    devices = make_mesh(MeshConfig(data=8), jax.devices())

    def gradients(pairs):
        with use_mesh(devices):
            return jax.grad(lambda p: value(name, p, batch)[0])(pairs)

    by_row, whole = (NamedSharding(devices, PartitionSpec(*axes)) for axes in (("data",), ()))
    text = jax.jit(gradients, in_shardings=(Pairs(by_row, by_row, whole, whole),)).lower(pairs).compile().as_text()
    assert f"[{ROWS},{ROWS}]" not in text
    assert ("all-gather" in text) == (name == "softmax")
    assert ("collective-permute" in text) == (name == "sigmoid")


@each_loss
def test_rows_that_are_no_pairs_change_nothing(name):
    """Whatever stands in them, neither the loss nor its gradients notice; a batch without any pair has no loss."""
    batch, pairs = make_batch(no_picture=[2], no_text=[5]), make_pairs()
    other = make_pairs(seed=8)
    rows = np.isin(np.arange(ROWS), [2, 5])[:, None]
    changed = pairs.replace(
        image_embeddings=jnp.where(rows, other.image_embeddings, pairs.image_embeddings),
        text_embeddings=jnp.where(rows, other.text_embeddings, pairs.text_embeddings),
    )
    function = quick_jit(jax.value_and_grad(lambda p: value(name, p, batch)[0]))
    (loss, gradients), (same, others) = function(pairs), function(changed)
    np.testing.assert_allclose(same, loss, rtol=1e-6)
    for one, two in zip(jax.tree.leaves(gradients), jax.tree.leaves(others), strict=True):
        np.testing.assert_allclose(two, one, atol=1e-6)
    assert not np.asarray(gradients.image_embeddings)[rows[:, 0]].any()
    empty = make_batch(no_text=range(ROWS))
    nothing, gradients = quick_jit(jax.value_and_grad(lambda p: value(name, p, empty)[0]))(pairs)
    assert nothing == 0.0
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradients))


def test_the_temperature_of_the_softmax_is_held():
    pairs, batch = make_pairs(scale=500.0), make_batch()
    loss, gradients = jax.value_and_grad(lambda p: value("softmax", p, batch, max_scale=100.0)[0])(pairs)
    held = value("softmax", pairs.replace(scale=jnp.float32(100.0)), batch)[0]
    assert loss == held and gradients.scale == 0.0


def test_settings_that_make_no_sense():
    for kind in (SoftmaxContrastiveConfig, SigmoidContrastiveConfig):
        with pytest.raises(ConfigError, match="chunk_size must be positive, not 0"):
            kind(chunk_size=0)
    with pytest.raises(ConfigError, match="max_scale must be positive"):
        SoftmaxContrastiveConfig(max_scale=0.0)
