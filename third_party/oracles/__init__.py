"""Parity folders: small random models of the reference implementations, their inputs, outputs and gradients.

`third_party/README.md` says what a folder holds and what has to be installed.
"""

from __future__ import annotations

from pathlib import Path

from third_party.oracles import cross, decoders, inline, open_flamingo, towers, vision
from third_party.oracles.variants import Variant

FAMILIES: dict[str, tuple[Variant, ...]] = {
    **open_flamingo.FAMILIES,
    **cross.FAMILIES,
    **inline.FAMILIES,
    **towers.FAMILIES,
    **vision.FAMILIES,
    **decoders.FAMILIES,
}


def make(family: str, folder: Path | str, variant: int = 0, seed: int = 0) -> Path:
    """Makes a parity folder.

    Args:
      family: a name of FAMILIES.
      folder: where to write it; files of the same names are replaced.
      variant: which of the family's models.
      seed: of the parameters and of the inputs.

    Returns:
      The folder.

    Raises:
      ValueError: there is no such family or variant.
      ImportError: the reference implementation is not installed.
    """
    if family not in FAMILIES:
        raise ValueError(f"there is no family {family!r}; there are {', '.join(sorted(FAMILIES))}")
    if not 0 <= variant < len(FAMILIES[family]):
        raise ValueError(f"{family} has the variants 0 to {len(FAMILIES[family]) - 1}, not {variant}")
    try:
        from third_party.oracles import folders
    except ImportError as error:
        raise ImportError(f"parity folders are made with torch and transformers: {error}") from error
    folder = Path(folder)
    folders.write(folder, FAMILIES[family][variant], seed)
    return folder
