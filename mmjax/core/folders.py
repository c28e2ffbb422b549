"""Folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from mmjax.core.errors import InputError


def check_new(path: str | Path) -> Path:
    """The absolute path, if a folder can be made there.

    Raises:
      InputError: there is something at `path` already.
    """
    path = Path(path).expanduser().absolute()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path} is there already, and not empty; give another folder, or remove it first")
    return path


@contextlib.contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A folder to write into, which becomes `path` when all is written; an error leaves nothing behind.

    What a process that was killed has left beside it (`path` + ".partial") is removed by the next one.

    Raises:
      InputError: there is something at `path` already.
    """
    path = check_new(path)
    partial = path.with_name(f"{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if path.exists():
            path.rmdir()
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
