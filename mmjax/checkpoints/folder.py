"""The folder of a run's checkpoints: which steps are complete, which to keep, how one is removed.

A step's folder is made of the arrays first and its manifest last, and is taken away manifest first. So a
process that is killed at any moment leaves complete steps and unfinished folders, and never a step that
looks complete and is not. Nothing here relies on moving a folder, which object stores cannot do.
"""

from __future__ import annotations

from etils import epath

from mmjax.checkpoints import manifest, store

_REMOVAL_MARK = "removed"


def step_folder(directory: epath.Path, step: int) -> epath.Path:
    """Folder of one step."""
    return directory / str(step)


def list_steps(directory: epath.Path) -> list[int]:
    """Steps that have a folder, complete or not, in ascending order; folders on their way out do not count."""
    if not directory.exists():
        return []
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdecimal() and not _is_going(path))


def list_complete_steps(directory: epath.Path) -> list[int]:
    """Steps whose manifest was written, in ascending order."""
    return [step for step in list_steps(directory) if (step_folder(directory, step) / manifest.FILE_NAME).exists()]


def remove_step(directory: epath.Path, step: int) -> None:
    """Removes a step. If the removal is cut short, the step is no longer listed and `sweep` ends it."""
    folder = step_folder(directory, step)
    (folder / _REMOVAL_MARK).touch()
    _remove_marked(folder)


def sweep(directory: epath.Path) -> None:
    """Removes what interrupted saves and removals left. Only for the process that writes to the directory."""
    for path in list(directory.iterdir()):
        if store.TEMPORARY_MARK in path.name:
            path.rmtree()
        elif path.name.isdecimal() and _is_going(path):
            _remove_marked(path)


def steps_to_keep(
    metrics: dict[int, dict[str, float]], *, keep_last: int, keep_best: tuple[str, str] | None
) -> set[int]:
    """The newest `keep_last` steps, and the best by `keep_best` (see `Checkpoints`); a tie goes to the newest."""
    kept = set(sorted(metrics)[-keep_last:])
    if keep_best is not None:
        name, mode = keep_best
        sign = 1 if mode == "max" else -1
        scored = [(sign * values[name], step) for step, values in metrics.items() if name in values]
        if scored:
            kept.add(max(scored)[1])
    return kept


def _is_going(folder: epath.Path) -> bool:
    """Whether its removal has begun: it is marked, or so near the end that at most the folder is left."""
    try:
        return (folder / _REMOVAL_MARK).exists() or not any(folder.iterdir())
    except FileNotFoundError:  # another process has just ended it
        return True


def _remove_marked(folder: epath.Path) -> None:
    # The mark goes last: without it and without a manifest the rest would look like a half-written step.
    (folder / manifest.FILE_NAME).unlink(missing_ok=True)
    for path in list(folder.iterdir()):
        if path.is_dir():
            path.rmtree()
        elif path.name != _REMOVAL_MARK:
            path.unlink()
    folder.rmtree()
