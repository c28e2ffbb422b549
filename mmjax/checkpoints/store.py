"""Named arrays to and from a folder: the only module that knows Orbax."""

import gc
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import jax
import orbax.checkpoint.experimental.v1 as orbax
from etils import epath

from mmjax.core.arrays import Array, Shaped

TEMPORARY_MARK = ".orbax-checkpoint-tmp"


def start_write(path: epath.Path, leaves: Mapping[str, Shaped[Array, "..."]]) -> Callable[[], None]:
    """Copies the arrays to the host, starts writing them, and returns the function that waits for the end.

    When this returns the arrays may be donated. `path` appears in one move when everything is written.
    """
    return orbax.save_async(path, dict(leaves)).result


def read(path: epath.Path, like: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Shaped[Array, "..."]]:
    """Reads the leaves named in `like`, and no others, into the shardings that `like` gives."""
    context = orbax.Context()
    context.pytree.loading.partial_load = True
    with context, _without_orphaned_reads():
        return orbax.load(path, dict(like))


def _is_worth_saying(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.CRITICAL or "/orbax/" not in record.pathname.replace("\\", "/")


# What Orbax logs by absl repeats what its exceptions say; those reach the user as one line of ours.
logging.getLogger("absl").addFilter(_is_worth_saying)


@contextmanager
def _without_orphaned_reads() -> Iterator[None]:
    """A failed read leaves its sibling reads behind; each would print a long trace of its own when it is collected."""
    before = sys.unraisablehook

    def hook(event):
        if not str(getattr(event.object, "__qualname__", "")).startswith("_read_array"):
            before(event)

    sys.unraisablehook = hook
    try:
        yield
    except BaseException as error:
        error.__traceback__ = error.__context__ = error.__cause__ = None
        gc.collect()
        raise
    finally:
        sys.unraisablehook = before
