"""The shards of a conversion written by Apache Beam: on this machine, or by the workers of a cluster."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from mmjax.core.errors import InputError
from mmjax.data.convert import Conversion, write_shard


def run_pipeline(conversion: Conversion, shards: Sequence[int], *, options: Sequence[str] = ()) -> None:
    """Writes the shards, and waits until all are written; the same files as `mmjax.data.convert` writes by itself.

    `options`: as Beam spells them, such as `--runner=DataflowRunner`; by default its direct runner on this machine.
    Workers read and write the same paths as the machine that starts them, so all of them must see these files.

    Raises:
      InputError: Beam is not installed, or an option is none of Beam's.
    """
    try:
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise InputError("--runner beam needs Apache Beam: pip install 'mmjax[beam]'") from None
    if not shards:
        return
    with apache_beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
        numbers = pipeline | "shards" >> apache_beam.Create(list(shards)) | apache_beam.Reshuffle()
        numbers | "write" >> apache_beam.Map(functools.partial(write_shard, conversion))
