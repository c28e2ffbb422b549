"""`python -m third_party.tfds KIND NAME SOURCE --data-dir DIR`: prepares a data set of TensorFlow Datasets."""

from __future__ import annotations

import argparse
import sys

from mmjax.core.errors import InputError
from third_party.tfds.builders import folder_reader, jsonl_reader, prepare


def main(arguments: list[str] | None = None) -> int:
    """Prepares a data set; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("folder", "jsonl"))
    parser.add_argument("name", help="of the data set: a-z, 0-9 and _")
    parser.add_argument("source", help="a folder of pictures, or a file of JSONL")
    parser.add_argument("--images", default="", help="jsonl: the folder or tar files that paths begin in")
    parser.add_argument("--data-dir", default="~/tensorflow_datasets")
    parser.add_argument("--split", default="train")
    options = parser.parse_args(arguments)
    try:
        if options.kind == "folder":
            reader = folder_reader(options.source, name=options.name)
        else:
            reader = jsonl_reader(options.source, name=options.name, images=options.images)
        builder = prepare(reader, options.data_dir, split=options.split)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{builder.info.splits[options.split].num_examples} examples in {builder.data_dir}")
    if builder.left_out:
        print(f"left out: {', '.join(f'{count} {kind}' for kind, count in sorted(builder.left_out.items()))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
