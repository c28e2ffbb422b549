"""What freezing saves: optimizer memory, and the FLOPs of a training step counted on its jaxpr.

    .venv/bin/python benchmarks/frozen.py [CONFIG ...]

Nothing is computed and no parameter is made, so that any size can be asked about.
"""

from __future__ import annotations

import dataclasses
import math
import sys

import jax

from mmjax.cli.configs import load_config
from mmjax.ops.flops import count_flops
from mmjax.optim.groups import ParameterGroup
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.training.load import abstract_batch
from mmjax.training.state import plan_state
from mmjax.training.step import make_loss, make_train_step

ROWS = 8  # FLOPs grow with the batch; their ratio does not depend on it


def measure(config) -> dict[str, float]:
    """Figures of one training step of `config`."""
    mesh = make_mesh(MeshConfig(data=1), jax.devices()[:1])
    model = config.model.build(config.dtype)
    batch = abstract_batch(config.data, config.batch_size)
    plan = plan_state(config, model, batch, mesh)
    weights = (1.0,) * len(config.data.sources)

    def bytes_of(tree):
        return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

    step = make_train_step(config, model, plan, mesh, weights)
    loss = make_loss(config, model, mesh, weights, blank=False)
    return {
        "optimizer GB": bytes_of(plan.abstract.optimizer) / 1e9,
        "trained parameters M": sum(math.prod(leaf.shape) for leaf in plan.abstract.params.values()) / 1e6,
        "step TFLOP": count_flops(step, plan.abstract, batch).total / 1e12,
        "forward TFLOP": count_flops(loss, plan.abstract, batch).total / 1e12,
    }


def main() -> None:
    """Prints a table for each config: as it is, and with everything trained."""
    for name in sys.argv[1:] or ["flamingo_3b"]:
        config = dataclasses.replace(load_config(name, []), batch_size=ROWS)
        everything = dataclasses.replace(
            config, optim=dataclasses.replace(config.optim, groups=(ParameterGroup(".*"),))
        )
        frozen, trained = measure(config), measure(everything)
        print(f"{name}, {ROWS} rows of {config.data.length} tokens and {config.data.images} images")
        print(f"{'':24}{'as configured':>16}{'all trained':>16}{'ratio':>8}")
        for key in frozen:
            print(f"{key:24}{frozen[key]:16.3f}{trained[key]:16.3f}{frozen[key] / trained[key]:8.3f}")


if __name__ == "__main__":
    main()
