"""Paths as users give them, and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from mmjax.core.errors import InputError

_ADDRESS = re.compile(r"([a-z][a-z0-9]+)://[^/]+(/.*)?")


def local_path(path: str | Path) -> Path:
    """The path, with a leading `~` spelled out.

    Raises:
      InputError: an address such as gs://BUCKET/PATH: files are read and written by path, so that buckets are mounted.
    """
    if _ADDRESS.fullmatch(str(path)):
        raise InputError(
            f"{path} is an address, and a path is needed: mount the bucket (gcsfuse, or as docs/pods.md says, where "
            "gs://BUCKET/PATH is /gcs/BUCKET/PATH) and give the path there"
        )
    return Path(path).expanduser()


def check_new(path: str | Path) -> Path:
    """The absolute path, if a folder can be made there.

    Raises:
      InputError: there is something at `path` already, or it is an address.
    """
    path = local_path(path).absolute()
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
