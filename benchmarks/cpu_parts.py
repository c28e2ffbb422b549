"""The parts of a ViT's layer and its patches, forward and backward, ours and torch's: what `benchmarks.cpu --parts`
times. Gradients are those of everything a part reads; the sum of squares is what they are taken of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.alternate import Work

if TYPE_CHECKING:
    from benchmarks.cpu import Shape


def inputs_of(shape: Shape) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Shapes of what each part reads, by its name."""
    grid = shape.image // shape.patch
    pictures, width, hidden, heads = shape.pictures, shape.width, 4 * shape.width, shape.heads
    tokens = (pictures, grid * grid + 1)
    head = (*tokens, heads, width // heads)
    pixels, kernel = (pictures, shape.image, shape.image, 3), (shape.patch, shape.patch, 3, width)
    return {
        "patches": (pixels, kernel),
        "patches as a convolution": (pixels, kernel),
        "query, key or value": ((*tokens, width), (width, heads, width // heads)),
        "attention": (head, head, head),
        "attention's output": (head, (heads, width // heads, width)),
        "up": ((*tokens, width), (width, hidden)),
        "down": ((*tokens, hidden), (hidden, width)),
        "GELU": ((*tokens, hidden),),
        "LayerNorm": ((*tokens, width), (width,), (width,)),
    }


def flops_of(shape: Shape) -> dict[str, int]:
    """Operations of each part's products, forward and backward; 0 where it has none."""
    size = {name: np.prod(shapes[0], dtype=int) for name, shapes in inputs_of(shape).items()}
    width, tokens = shape.width, (shape.image // shape.patch) ** 2 + 1
    outputs = {name: width for name in size} | {"up": 4 * width, "attention": 2 * tokens, "GELU": 0, "LayerNorm": 0}
    return {name: int(3 * 2 * size[name] * outputs[name]) for name in size}


def _arrays(shape: Shape) -> dict[str, list[np.ndarray]]:
    random = np.random.default_rng(0)
    return {
        name: [random.standard_normal(one, np.float32) for one in shapes] for name, shapes in inputs_of(shape).items()
    }


def ours(shape: Shape) -> Work:
    """As our layers compute them."""
    import jax
    import jax.numpy as jnp

    from mmjax.layers.mlp import ACTIVATIONS
    from mmjax.ops.attention import attention
    from mmjax.ops.masks import AttentionMask
    from mmjax.ops.norms import layer_norm

    def patches(x, kernel):
        batch, height, width, depth = x.shape
        x = x.reshape(batch, height // shape.patch, shape.patch, width // shape.patch, shape.patch, depth)
        return jnp.einsum("BhpwqC,pqCD->BhwD", x, kernel)

    def convolution(x, kernel):
        strides = (shape.patch, shape.patch)
        return jax.lax.conv_general_dilated(x, kernel, strides, "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    parts = {
        "patches": patches,
        "patches as a convolution": convolution,
        "query, key or value": lambda x, kernel: jnp.tensordot(x, kernel, 1),
        "attention": lambda *pair: attention(*pair, mask=AttentionMask(causal=False)),
        "attention's output": lambda x, kernel: jnp.tensordot(x, kernel, 2),
        "up": jnp.matmul,
        "down": jnp.matmul,
        "GELU": ACTIVATIONS["gelu"],
        "LayerNorm": lambda x, scale, bias: layer_norm(x, scale, bias, eps=1e-6),
    }

    def step(part, arrays):
        places = tuple(range(len(arrays)))
        run = jax.jit(jax.grad(lambda *inputs: jnp.sum(jnp.square(part(*inputs))), places))
        inputs = [jnp.asarray(array) for array in arrays]
        return lambda: jax.block_until_ready(run(*inputs))

    return Work({name: step(parts[name], arrays) for name, arrays in _arrays(shape).items()})


def theirs(shape: Shape) -> Work:
    """As transformers' ViT computes them; torch is best with kernels of which the output is the first dimension."""
    import torch
    import torch.nn.functional as F

    def patches(x, kernel):
        return F.conv2d(x, kernel, stride=shape.patch)

    def attention(*pair):
        return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in pair)).transpose(1, 2)

    parts = {
        "patches": patches,
        "patches as a convolution": patches,
        "query, key or value": F.linear,
        "attention": attention,
        "attention's output": F.linear,
        "up": F.linear,
        "down": F.linear,
        "GELU": F.gelu,
        "LayerNorm": lambda x, scale, bias: F.layer_norm(x, scale.shape, scale, bias),
    }

    def in_its_layout(name: str, arrays: list[np.ndarray]) -> list[Any]:
        if name.startswith("patches"):
            arrays = [arrays[0].transpose(0, 3, 1, 2), arrays[1].transpose(3, 2, 0, 1)]
        elif parts[name] is F.linear:
            flat = arrays[0].reshape(*arrays[0].shape[:2], -1)
            arrays = [flat, arrays[1].reshape(flat.shape[-1], -1).T]
        return [torch.from_numpy(np.ascontiguousarray(array)).requires_grad_() for array in arrays]

    def step(name, arrays):
        inputs = in_its_layout(name, arrays)

        def run():
            for one in inputs:
                one.grad = None
            parts[name](*inputs).square().sum().backward()

        return run

    return Work({name: step(name, arrays) for name, arrays in _arrays(shape).items()})
