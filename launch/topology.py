"""TPU slices by the planner's names (`v5p:8x8x16`): what Google Kubernetes Engine and the Cloud TPU API call them.

Sources: machine types, node labels and placement, cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus and
github.com/AI-Hypercomputer/xpk, src/xpk/core/system_characteristics.py and nodepool.py; software versions,
cloud.google.com/tpu/docs/runtimes; accelerator types, cloud.google.com/tpu/docs/v4, v5e, v5p, v6e.
"""

from __future__ import annotations

import dataclasses

from mmjax.core.errors import InputError
from mmjax.planning.topology import Topology, parse_topology

# Flags of libtpu that published trainers set, by generation. An option, not a default: each changes what is overlapped
# or fused, and none was measured by this project.
_OVERLAP = ("--xla_tpu_enable_latency_hiding_scheduler=true",)
_GATHER = ("--xla_enable_async_all_gather=true", "--xla_enable_async_collective_permute=true")
_FUSION = (
    "--xla_tpu_enable_async_collective_fusion=true",
    "--xla_tpu_enable_async_collective_fusion_fuse_all_gather=true",
    "--xla_tpu_enable_async_collective_fusion_multiple_steps=true",
    "--xla_tpu_overlap_compute_collective_tc=true",
)
_SEVERAL_SLICES = (
    "--xla_tpu_enable_data_parallel_all_reduce_opt=true",
    "--xla_tpu_data_parallel_opt_different_sized_ops=true",
)


@dataclasses.dataclass(frozen=True)
class Generation:
    """What a TPU generation is called elsewhere.

    type_prefix: of the accelerator type, `v5litepod` in `v5litepod-256`, and of xpk's.
    cores: what the number in an accelerator type counts for a chip: its 2 TensorCores, or the chip itself.
    node_label: the value of cloud.google.com/gke-tpu-accelerator.
    machine, small_machine: types of a host with 4 chips and with 1; empty where it is not sold.
    runtime: software version of a Cloud TPU VM; empty where the Cloud TPU API does not have the generation.
    flags: for LIBTPU_INIT_ARGS.
    workload_policy: whether GKE places its slices by a workload policy instead of `--tpu-topology`.
    """

    type_prefix: str
    cores: int
    node_label: str
    machine: str
    small_machine: str = ""
    runtime: str = ""
    flags: tuple[str, ...] = _OVERLAP
    workload_policy: bool = False


GENERATIONS = {
    "v4": Generation(
        type_prefix="v4",
        cores=2,
        node_label="tpu-v4-podslice",
        machine="ct4p-hightpu-4t",
        runtime="tpu-ubuntu2204-base",
        flags=(*_OVERLAP, *_GATHER),
    ),
    "v5e": Generation(
        type_prefix="v5litepod",
        cores=1,
        node_label="tpu-v5-lite-podslice",
        machine="ct5lp-hightpu-4t",
        small_machine="ct5lp-hightpu-1t",
        runtime="v2-alpha-tpuv5-lite",
    ),
    "v5p": Generation(
        type_prefix="v5p",
        cores=2,
        node_label="tpu-v5p-slice",
        machine="ct5p-hightpu-4t",
        runtime="v2-alpha-tpuv5",
        flags=(*_OVERLAP, *_GATHER, "--xla_tpu_scoped_vmem_limit_kib=65472"),
    ),
    "v6e": Generation(
        type_prefix="v6e",
        cores=1,
        node_label="tpu-v6e-slice",
        machine="ct6e-standard-4t",
        small_machine="ct6e-standard-1t",
        runtime="v2-alpha-tpuv6e",
        flags=(
            *_OVERLAP,
            *_FUSION,
            "--xla_tpu_scoped_vmem_limit_kib=98304",
            "--xla_jf_spmd_threshold_for_windowed_einsum_mib=1000000",
            "--xla_latency_hiding_scheduler_rerun=2",
        ),
    ),
    "7x": Generation(
        type_prefix="tpu7x",
        cores=2,
        node_label="tpu7x",
        machine="tpu7x-standard-4t",
        workload_policy=True,
    ),
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """A slice by its names. Several of them are told apart by nothing, so their number is not part of it."""

    planned: Topology

    @property
    def generation(self) -> Generation:
        """The names of its generation."""
        return GENERATIONS[self.planned.chip.name]

    @property
    def chips(self) -> int:
        """Chips of the slice."""
        return self.planned.chip_count

    @property
    def hosts(self) -> int:
        """Virtual machines of the slice, a process each."""
        return self.planned.host_count

    @property
    def chips_per_host(self) -> int:
        """Chips that one virtual machine holds."""
        return self.chips // self.hosts

    @property
    def topology(self) -> str:
        """`8x8x16`: the chips along each dimension, as the labels of GKE nodes have it."""
        return "x".join(map(str, self.planned.shape))

    @property
    def accelerator_type(self) -> str:
        """`v5p-2048`, `v5litepod-256`: the name for `--accelerator-type`."""
        return f"{self.generation.type_prefix}-{self.chips * self.generation.cores}"

    @property
    def accelerator_shape(self) -> str:
        """The shape that comes for the accelerator type: the most compact one of so many chips."""
        return parse_topology(f"{self.planned.chip.name}-{self.chips}").name

    @property
    def xpk_type(self) -> str:
        """The name for xpk's `--tpu-type`, which tells slices of one size by their shape."""
        return f"{self.generation.type_prefix}-{self.topology}"

    @property
    def machine(self) -> str:
        """Machine type of a host."""
        return self.generation.small_machine if self.chips == 1 else self.generation.machine

    def flags(self, slices: int) -> str:
        """The generation's flags for LIBTPU_INIT_ARGS, with those for several slices where there are several."""
        return " ".join((*self.generation.flags, *(_SEVERAL_SLICES if slices > 1 else ())))

    def __str__(self) -> str:
        return self.planned.name


def parse_slice(text: str) -> Slice:
    """`v5p:8x8x16` as a slice. Raises InputError as `mmjax plan` does for what there is not."""
    try:
        return Slice(parse_topology(text))
    except InputError as error:
        raise InputError(f"--topology {text}: {error}") from None
