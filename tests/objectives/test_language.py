"""The language loss against float64: next tokens, the mean of each data set, and parts that sum to the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core.batch import Batch
from mmjax.core.errors import ConfigError
from mmjax.models.decoders.decoder import DecoderOutput
from mmjax.objectives.language import LanguageConfig, language_loss, position_weights

ROWS, LENGTH, WIDTH, WORDS = 6, 7, 8, 23
# Three data sets, of which the last has no row.
DATASET_IDS = np.array([0, 1, 0, 0, 1, 0], np.int32)
DATASET_WEIGHTS = (1.0, 0.25, 3.0)


def make_batch(seed=0):
    """Rows of which every third position or so is predicted, with unequal weights; row 3 has nothing to predict."""
    random = np.random.default_rng(seed)
    text = (ROWS, LENGTH)
    weights = random.uniform(0.1, 2.0, text) * (random.uniform(size=text) < 0.4)
    weights[3] = 0.0
    zeros = np.zeros(text, np.int32)
    return Batch(
        tokens=random.integers(0, WORDS, text, np.int32),
        positions=zeros,
        segment_ids=zeros,
        targets=random.integers(0, WORDS, text, np.int32),
        loss_weights=weights.astype(np.float32),
        media_index=zeros,
        images=np.zeros((ROWS, 1, 2, 2, 3), np.uint8),
        image_mask=np.ones((ROWS, 1), bool),
        dataset_ids=DATASET_IDS,
    )


def make_output(softcap, seed=1):
    random = np.random.default_rng(seed)
    return DecoderOutput(
        hidden=jnp.asarray(random.standard_normal((ROWS, LENGTH, WIDTH)), jnp.float32),
        unembedding=jnp.asarray(random.standard_normal((WORDS, WIDTH)), jnp.float32),
        cache=None,
        logits_softcap=softcap,
    )


def by_position(output, batch):
    """nll, squared log of the partition function, and whether the likeliest word is the target; at float64."""
    hidden, table = np.asarray(output.hidden, np.float64), np.asarray(output.unembedding, np.float64)
    logits = hidden @ table.T
    if output.logits_softcap:
        logits = output.logits_softcap * np.tanh(logits / output.logits_softcap)
    log_z = np.log(np.exp(logits).sum(-1))
    nll = log_z - np.take_along_axis(logits, batch.targets[..., None], -1)[..., 0]
    return nll, log_z**2, logits.argmax(-1) == batch.targets


@pytest.mark.parametrize(("softcap", "z_loss", "chunk_size"), [(None, 0.0, 1024), (5.0, 0.01, 5)])
def test_the_loss_is_the_weighted_sum_of_the_means_of_the_data_sets(softcap, z_loss, chunk_size):
    batch, output = make_batch(), make_output(softcap)
    config = LanguageConfig(chunk_size, z_loss)
    loss, tally = language_loss(
        output, batch, position_weights(batch, DATASET_WEIGHTS), config, datasets=len(DATASET_WEIGHTS)
    )
    nll, squared, correct = by_position(output, batch)
    given = np.asarray(batch.loss_weights, np.float64)
    expected = 0.0
    for dataset, weight in enumerate(DATASET_WEIGHTS):
        mine = given * (dataset == DATASET_IDS)[:, None]
        np.testing.assert_allclose(tally.weight[dataset], mine.sum(), rtol=1e-6)
        np.testing.assert_allclose(tally.nll[dataset], (mine * nll).sum(), rtol=1e-5)
        np.testing.assert_allclose(tally.scores["accuracy"][dataset], (mine * correct).sum(), rtol=1e-6)
        if mine.any():
            expected += weight * (mine * (nll + z_loss * squared)).sum() / mine.sum()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert tally.weight[2] == tally.nll[2] == tally.scores["accuracy"][2] == 0.0
    assert tally.scores["accuracy"].sum() > 0  # some are right, or the comparison above would say nothing


def test_position_weights_of_a_data_set_sum_to_its_weight():
    batch = make_batch()
    weights = np.asarray(position_weights(batch, DATASET_WEIGHTS), np.float64)
    assert weights.shape == (ROWS, LENGTH)
    np.testing.assert_array_equal(weights == 0.0, batch.loss_weights == 0.0)
    for dataset, expected in enumerate((1.0, 0.25, 0.0)):
        np.testing.assert_allclose(weights[dataset == DATASET_IDS].sum(), expected, rtol=1e-6)
    ratios = weights[DATASET_IDS == 1] / np.where(batch.loss_weights == 0, 1, batch.loss_weights)[DATASET_IDS == 1]
    np.testing.assert_allclose(ratios[ratios > 0], ratios.max(), rtol=1e-6)  # within a data set as the batch says


def test_a_data_set_counts_the_same_however_much_of_a_batch_it_fills():
    """Scaling the weights that its rows came with, as its loss weight in the data does, changes nothing."""
    batch = make_batch()
    scaled = batch.replace(loss_weights=batch.loss_weights * np.where(DATASET_IDS == 0, 50.0, 1.0)[:, None])
    scaled = scaled.replace(loss_weights=scaled.loss_weights.astype(np.float32))
    np.testing.assert_allclose(
        position_weights(batch, DATASET_WEIGHTS), position_weights(scaled, DATASET_WEIGHTS), rtol=1e-5
    )


def test_a_batch_with_nothing_to_predict_has_no_loss_and_no_gradient():
    batch = make_batch()
    batch = batch.replace(loss_weights=np.zeros_like(batch.loss_weights))
    weights = position_weights(batch, DATASET_WEIGHTS)
    np.testing.assert_array_equal(weights, 0.0)

    def loss(hidden):
        output = make_output(None).replace(hidden=hidden)
        return language_loss(output, batch, weights, LanguageConfig(), datasets=3)[0]

    value, gradient = jax.jit(jax.value_and_grad(loss))(make_output(None).hidden)
    assert value == 0.0
    np.testing.assert_array_equal(gradient, 0.0)


def test_parts_of_a_batch_sum_to_the_whole():
    """With the weights of the whole batch, though a part has other shares of the data sets, or lacks one."""
    batch, output, config = make_batch(), make_output(30.0), LanguageConfig(4, z_loss=0.1)
    weights = position_weights(batch, DATASET_WEIGHTS)

    def loss(hidden, table, rows):
        part = jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], batch)
        out = DecoderOutput(hidden[rows], table, None, 30.0)
        return language_loss(out, part, weights[rows], config, datasets=3)

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    whole = run(output.hidden, output.unembedding, np.arange(ROWS))
    pieces = [run(output.hidden, output.unembedding, np.array(rows)) for rows in ([0, 3], [1, 4], [2, 5])]
    total = jax.tree.map(lambda *leaves: sum(leaves), *pieces)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(total), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_the_gradient_is_that_of_float64():
    batch, output = make_batch(), make_output(None)
    weights = position_weights(batch, DATASET_WEIGHTS)

    def loss(hidden, table):
        out = output.replace(hidden=hidden, unembedding=table)
        return language_loss(out, batch, weights, LanguageConfig(8), datasets=3)[0]

    hidden, table = jax.jit(jax.grad(loss, argnums=(0, 1)))(output.hidden, output.unembedding)
    states, words = np.asarray(output.hidden, np.float64), np.asarray(output.unembedding, np.float64)
    logits = states @ words.T
    pull = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    pull -= np.eye(WORDS)[batch.targets]
    pull *= np.asarray(weights, np.float64)[..., None]
    np.testing.assert_allclose(hidden, pull @ words, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(table, np.einsum("btv,btd->vd", pull, states), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chunk_size": 0}, "chunk_size must be positive, not 0"),
        ({"z_loss": -1.0}, "z_loss must be at least 0, not -1.0"),
    ],
)
def test_values_that_make_no_loss_are_refused(settings, message):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        LanguageConfig(**settings)
