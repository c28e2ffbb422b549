"""Compiling for tests: tiny programs that run once, so the compiler's own time is all that counts."""

import functools

import jax

quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
