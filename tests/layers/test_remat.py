"""What is recomputed changes neither outputs nor gradients, and keeps as much as its name says."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from mmjax.layers.remat import POLICIES, remat
from mmjax.models.connectors.resampler import Resampler, ResamplerConfig
from mmjax.models.decoders.config import DecoderConfig
from mmjax.models.encoders.text import TextEncoder, TextEncoderConfig
from mmjax.models.encoders.vit import ViT, ViTConfig
from tests.quick import quick_jit

TOKENS = jnp.arange(12).reshape(2, 6) % 7
DECODER = DecoderConfig(16, 16, 2, 2, 8, 32, mlp_gated=False)


def tower(name, policy):
    """A tower with that policy, and its arguments."""
    if name == "vision":
        config = ViTConfig(8, 4, 16, 2, 2, 32, remat=policy)
        return ViT(config), (jnp.ones((2, 8, 8, 3)),), lambda output: output.features
    if name == "resampler":
        config = ResamplerConfig(16, 2, 2, 8, 3, 32, remat=policy)
        return Resampler(config), (jnp.ones((2, 1, 5, 16)), jnp.ones((2, 1), bool)), lambda output: output
    config = TextEncoderConfig(dataclasses.replace(DECODER, remat=policy))
    places = jnp.broadcast_to(jnp.arange(6)[None], TOKENS.shape)
    return TextEncoder(config), (TOKENS, places, jnp.ones_like(TOKENS)), lambda output: output.hidden


def loss_of(name, policy):
    module, arguments, taken = tower(name, policy)

    def loss(params):
        return jnp.sum(jnp.square(taken(module.apply(params, *arguments))))

    return quick_jit(module.init)(jax.random.key(0), *arguments), loss


def kept(name, policy):
    """Elements that the backward pass of a tower is given."""
    params, loss = loss_of(name, policy)
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(lambda p: jax.vjp(loss, p)[1], params)))


@pytest.mark.parametrize(
    ("name", "policies"), [("vision", tuple(POLICIES)), ("resampler", ("attention",)), ("text", ("dots",))]
)
def test_towers_compute_the_same_under_every_policy(name, policies):
    params, loss = loss_of(name, "none")
    value, gradients = quick_jit(jax.value_and_grad(loss))(params)
    for policy in policies:
        _, other = loss_of(name, policy)
        again, others = quick_jit(jax.value_and_grad(other))(params)
        assert jnp.allclose(again, value, rtol=1e-6)
        pairs = zip(jax.tree.leaves(gradients), jax.tree.leaves(others), strict=True)
        assert all(jnp.allclose(a, b, atol=1e-5) for a, b in pairs), policy


@pytest.mark.parametrize("name", ["vision", "text"])
def test_policies_keep_less_and_less(name):
    sizes = {policy: kept(name, policy) for policy in ("none", *POLICIES)}
    assert sizes["none"] > sizes["dots_attention"] > sizes["dots"] > sizes["full"]
    assert sizes["dots_attention"] > sizes["attention"] > sizes["full"]


def test_without_a_policy_the_block_is_itself():
    assert remat(ViT, "none") is ViT
