"""Runs small enough to be compiled and trained in seconds."""

from __future__ import annotations

import jax

from mmjax.cli.configs import load_config
from mmjax.data.stream import BatchStream
from mmjax.parallel.mesh import make_mesh
from mmjax.training.load import abstract_batch, build_model
from mmjax.training.run import RunConfig
from mmjax.training.state import create_state, plan_state
from mmjax.training.step import make_loss, make_train_step

FROZEN = (
    "optim.groups=[{'pattern': r'vision/.*', 'frozen': True}, {'pattern': r'decoder/(layers|tail)/cross_.*'}, "
    "{'pattern': r'decoder/.*', 'frozen': True}, {'pattern': '.*'}]"
)


def tiny_config(*overrides: str, name: str = "flamingo_digits") -> RunConfig:
    """A config (by default the digits run) at its tiny size, in float32, with `KEY=VALUE` overrides."""
    settings = ["compute_dtype=float32", "data.phases=[]", *overrides]
    return load_config(f"configs/{name}.py:tiny", [tuple(item.split("=", 1)) for item in settings])


class TinyRun:
    """Everything that the loop puts together, on the devices that the config's mesh needs."""

    def __init__(self, *overrides: str, devices: int = 1, name: str = "flamingo_digits"):
        self.config = tiny_config(*overrides, name=name)
        self.mesh = make_mesh(self.config.mesh, jax.devices()[:devices])
        self.model, self.tokenizer = build_model(self.config)
        self.stream = BatchStream(
            self.config.data, self.tokenizer, batch_size=self.config.batch_size, seed=self.config.seed, workers=0
        )
        self.batch = abstract_batch(self.config.data, self.config.batch_size)
        self.plan = plan_state(self.config, self.model, self.batch, self.mesh)
        self.step_function = make_train_step(self.config, self.model, self.plan, self.mesh, self.stream.loss_weights)
        self.step = jax.jit(self.step_function)

    def first_state(self):
        example = jax.tree.map(lambda leaf: jax.numpy.zeros((1, *leaf.shape[1:]), leaf.dtype), self.batch)
        return create_state(self.config, self.model, example, self.plan)

    def loss(self, *, blank: bool):
        return jax.jit(make_loss(self.config, self.model, self.mesh, self.stream.loss_weights, blank=blank))

    def read(self, step: int):
        return jax.tree.map(jax.numpy.asarray, self.stream.read(step).batch)
