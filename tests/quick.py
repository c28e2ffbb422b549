"""Compiling for tests: tiny programs that run once, so the compiler's own time is all that counts."""

import functools

import jax

QUICK = {"xla_backend_optimization_level": 0}
if jax.__version_info__ < (0, 11):
    QUICK["xla_cpu_use_fusion_emitters"] = False

quick_jit = functools.partial(jax.jit, compiler_options=QUICK)
