"""`python -m tests.faults.recorded_run VERB ...`: the command line, which also writes down what training reads.

A line of JSON for each batch and process into the folder that the variable RECORDED names: the step, and for each row
of the process its place in the global batch, the ids of its examples, and a digest of all its arrays.
"""

import functools
import hashlib
import json
import os
import pathlib
import sys

import jax
import numpy as np

from mmjax.cli import main
from mmjax.training import loop


def _recorded(read, run, items, step):
    item, batch = read(run, items, step)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(item.batch)]
    digests = [hashlib.sha256(b"".join(leaf[row].tobytes() for leaf in leaves)) for row in range(len(item.ids))]
    told = [[place, ids, one.hexdigest()] for place, ids, one in zip(run.trainer.rows, item.ids, digests, strict=True)]
    with open(pathlib.Path(os.environ["RECORDED"], f"process-{jax.process_index()}.jsonl"), "a") as file:
        file.write(json.dumps({"step": step, "rows": told}) + "\n")
    return item, batch


if __name__ == "__main__":
    original = loop._Loop._next
    loop._Loop._next = functools.wraps(original)(lambda *arguments: _recorded(original, *arguments))
    sys.exit(main())
