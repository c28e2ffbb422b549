"""The layers again, in float64 numpy, written from the papers and not from our modules."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.core.paths import flatten


def random_parameters(model, seed, *inputs, **keywords):
    """Parameters of a model by path, every one of them (gates, norms, biases) away from its start."""
    shapes = flatten(jax.eval_shape(model.init, jax.random.key(0), *inputs, **keywords)["params"])
    random = np.random.default_rng(seed)
    parameters = {}
    for path, boxed in shapes.items():
        shape = boxed.unbox().shape
        scale = 0.3 if len(shape) < 2 else max(math.prod(shape[-3:-1]), 8) ** -0.5
        start = 1.0 if path.endswith("/scale") else 0.0
        parameters[path] = jnp.asarray(start + random.normal(size=shape) * scale, jnp.float32)
    return parameters


def below(parameters, prefix):
    """What lies below a path, in float64."""
    start = prefix + "/"
    return {path[len(start) :]: np.asarray(p, np.float64) for path, p in parameters.items() if path.startswith(start)}


def layer_of(parameters, index):
    """One slice of stacked parameters."""
    return {path: parameter[index] for path, parameter in parameters.items()}


def assert_same_gradients(ours, reference, tolerance):
    """Differences in units of the largest gradient of all: some (of a key's bias) are nothing but rounding."""
    assert ours.keys() == reference.keys()
    largest = max(float(np.abs(gradient).max()) for gradient in reference.values())
    for path in reference:
        np.testing.assert_allclose(ours[path], reference[path], rtol=0, atol=tolerance * largest, err_msg=path)


def layer_norm(x, p, eps):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + eps) * p["scale"] + p["bias"]


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


ACTIVATIONS = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "gelu_quick": lambda x: x * sigmoid(1.702 * x),
    "silu": lambda x: x * sigmoid(x),
    "relu": lambda x: np.maximum(x, 0),
    "squared_relu": lambda x: np.maximum(x, 0) ** 2,
}


def linear(x, p, contracted=1):
    y = np.tensordot(x, p["kernel"], contracted)
    return y + p.get("bias", 0.0)


def mlp(x, p, activation):
    act = ACTIVATIONS[activation]
    y = linear(x, below(p, "up"))
    y = act(linear(x, below(p, "gate"))) * y if "gate/kernel" in p else act(y)
    return linear(y, below(p, "down"))


def head_norm(x, p, eps):
    """A layer norm of each head, where `p` has one."""
    return layer_norm(x, p, eps) if p else x


def attention(x, keys_from, values_from, p, sees=None, eps=None):
    """Multi-head attention of one example `x [T,D]`; `sees [T,S]` says which keys each query sees.

    eps: of the norm of each head's queries, where there is one.
    """
    query = head_norm(linear(x, below(p, "query")), below(p, "query_norm"), eps)
    key, value = keys_from, values_from
    scores = np.einsum("thk,shk->hts", query, key) / math.sqrt(query.shape[-1])
    if sees is not None:
        scores = np.where(sees[None], scores, -np.inf)
    mixed = np.einsum("hts,shk->thk", softmax(scores), value)
    return linear(mixed, below(p, "out"), 2)
