"""Which learned position each patch of a padded picture takes: as in the published code, rounding and all."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models.encoders.positions import fraction_positions
from tests.parity.reference_models import torch, transformers


@pytest.mark.parametrize("side", [1, 3, 14, 26, 27, 32])
@pytest.mark.parametrize("extra", [0, 5])
def test_equals_the_reference(side, extra):
    """Grids as large as that of the positions and larger, with pictures of every height and width in them."""
    models = transformers.models.idefics3
    config = models.configuration_idefics3.Idefics3VisionConfig(
        image_size=side, patch_size=1, hidden_size=2, num_attention_heads=1
    )
    embeddings = models.modeling_idefics3.Idefics3VisionEmbeddings(config)
    taken = []
    embeddings.position_embedding.register_forward_hook(lambda module, inputs, output: taken.append(inputs[0]))
    length = side + extra
    present = np.zeros((length, length, length), bool)
    for high in range(length):
        present[high, : high + 1, : length - high] = True
    with torch.no_grad():
        embeddings(torch.zeros(length, 3, length, length), torch.tensor(present))
    assert np.array_equal(fraction_positions(jnp.asarray(present), side), taken[0].numpy())
