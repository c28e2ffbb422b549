"""Floor 8: `mmjax VERB`: each verb is a file here; the dispatcher imports the one that is called."""

from mmjax.cli.main import main

__all__ = ["main"]
