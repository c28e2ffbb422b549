"""What XLA is told wherever tests compile for a CPU; it is read before JAX is imported."""

import importlib.metadata

# Fusion emitters take half of the time to compile; from JAX 0.11 on there is no such choice.
_RELEASE = tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2]))
QUICK_FLAGS = "--xla_cpu_use_fusion_emitters=false" if _RELEASE < (0, 11) else ""
