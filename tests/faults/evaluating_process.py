"""One of several processes that share an evaluation: DATA OUT COORDINATOR PROCESSES INDEX."""

import sys
from pathlib import Path


def main(data, out, coordinator, processes, index):
    from types import SimpleNamespace

    from mmjax.evaluation.benchmark_questions import BenchmarkQuestions
    from mmjax.evaluation.harness import evaluate
    from mmjax.evaluation.predictions import FileStore
    from mmjax.evaluation.settings import Options
    from mmjax.parallel import distributed, peers
    from tests.evaluation.made import WRITTEN, Guesser

    place = SimpleNamespace(coordinator=coordinator, processes=processes, process_id=index, join_seconds=300.0)
    distributed.join(place, heartbeat_seconds=100.0)
    model, options = Guesser(), Options(controls=("relabelled",), seeds=3, shots=(0, 2))
    task = BenchmarkQuestions(WRITTEN, Path(data), options, embed=model.embed_pictures, encoder=str, cache=None)
    task.chunk = (5, 40)
    store = FileStore(Path(out), {}) if index == "0" else None
    evaluate(model, [task], options, store=store, together=False, results=Path(out) / "results", progress=False)
    print(len(model.prompts), flush=True)
    peers.leave(0, None)


if __name__ == "__main__":
    main(*sys.argv[1:])
