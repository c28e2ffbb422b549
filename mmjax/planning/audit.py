"""Where every parameter of a configuration lies, by its mesh alone: no compiler and no device is needed."""

from __future__ import annotations

import jax
from jax.sharding import AbstractMesh

from mmjax.core.errors import ConfigError
from mmjax.models.families import initializer
from mmjax.optim.groups import assign_groups
from mmjax.parallel.mesh import AXES
from mmjax.parallel.sharding import AuditRow, abstract_parameters, audit
from mmjax.training.load import abstract_batch
from mmjax.training.run import RunConfig

# A parameter of so many bytes that lies whole on every device is worth a word.
_LARGE = 64 * 2**20


def audit_run(run: RunConfig, devices: int) -> list[AuditRow]:
    """One row per parameter, in order of path, on the run's mesh over `devices` devices."""
    mesh = AbstractMesh(run.mesh.sizes(devices), AXES)
    batch = abstract_batch(run.data, run.batch_size)
    model = run.model.build(run.dtype)
    shapes, axes = abstract_parameters(initializer(model), jax.random.key(0), batch)
    return audit(shapes, axes, mesh, run.mesh.strategy)


def audit_text(run: RunConfig, devices: int) -> str:
    """The audit as lines, with what is frozen, and the sums.

    Raises:
      ConfigError: a large parameter lies whole on every device though the mesh could split it.
    """
    rows = audit_run(run, devices)
    groups = assign_groups(run.optim.groups, [row.path for row in rows])
    sizes = dict(zip(AXES, run.mesh.sizes(devices), strict=True))
    lines = [f"mesh {sizes}, strategy {run.mesh.strategy}, {devices} devices", ""]
    for row in rows:
        logical = ", ".join(str(axis) for axis in row.axes)
        spec = ", ".join("+".join(part) if isinstance(part, tuple) else str(part) for part in row.spec)
        frozen = "  frozen" if groups[row.path].frozen else ""
        lines.append(f"{row.path}  {list(row.shape)}  ({logical}) -> ({spec})  {row.bytes_per_device:,} bytes{frozen}")
    each, whole = sum(row.bytes_per_device for row in rows), sum(row.bytes for row in rows)
    lines += ["", f"{whole:,} bytes of parameters, {each:,} on each device: {each * devices / whole:.3f} copies"]
    splittable = [size for axis, size in sizes.items() if size > 1 and axis in ("fsdp", "tensor")]
    idle = [row.path for row in rows if row.replicated and row.bytes >= _LARGE and splittable]
    if idle:
        raise ConfigError(
            f"{', '.join(idle)} lie whole on every device: no dimension divides by the mesh axes {sizes}; change the "
            "mesh sizes or set mesh.strategy to 'full'"
        )
    return "\n".join(lines) + "\n"
