"""The table of benchmarks that `mmjax eval` runs: writes docs/benchmarks.md.

.venv/bin/python -m benchmarks.tasks_table
"""

from __future__ import annotations

from pathlib import Path

from mmjax.evaluation.benchmark import Benchmark
from mmjax.evaluation.benchmarks.table import BENCHMARKS
from mmjax.evaluation.corruptions import CORRUPTIONS

TABLE = Path(__file__).parents[1] / "docs" / "benchmarks.md"

HEAD = """# Benchmarks

What `mmjax eval --task NAME --data DIR` reads, asks and scores. DIR holds the official files under their official
names, in the folders in which they are given; nothing is fetched, and pictures are decoded when they are needed. Each
evaluation leaves the official file of results, which is scored as [scoring.md](scoring.md) says: `mmjax score` gives
the same number for it.

- **prompt**: the default, `{image}` being the pictures; other forms of it make up a prompt ensemble. Line breaks are
  written as a slash.
- **answer**: *generate* writes it; *rank* takes the likeliest candidate; *classes* and *retrieval* compare the vectors
  of two towers (of a model without a text tower, *classes* ranks). Where a benchmark has demonstrations of its own, k
  shots are k of each class.
- **chance**: what is had without looking, where it is known.

"""

# Where the files are given.
SOURCES = {
    "coco": "Karpathy's page of NeuralTalk (caption_datasets.zip); cocodataset.org",
    "flickr30k": "Karpathy's page of NeuralTalk (caption_datasets.zip); pictures on request from its authors",
    "nocaps": "nocaps.org; Open Images",
    "vqav2": "visualqa.org; cocodataset.org",
    "okvqa": "okvqa.allenai.org; cocodataset.org",
    "textvqa": "textvqa.org",
    "vizwiz": "vizwiz.org",
    "docvqa": "rrc.cvc.uab.es, challenge 17, task 1",
    "chartqa": "github.com/vis-nlp/ChartQA",
    "gqa": "cs.stanford.edu/people/dorarad/gqa",
    "nlvr2": "github.com/lil-lab/nlvr; pictures on request",
    "snli_ve": "github.com/necla-ml/SNLI-VE; pictures of Flickr30k",
    "hateful_memes": "hatefulmemeschallenge.com",
    "imagenet": "image-net.org, or Kaggle's ILSVRC",
    "pope": "github.com/RUCAIBox/POPE (output/coco); cocodataset.org",
    "mme": "github.com/BradyFU/Awesome-Multimodal-Large-Language-Models; on request",
    "mmbench": "github.com/open-compass/mmbench",
    "mmmu": "huggingface.co/datasets/MMMU/MMMU",
    "frozen": "fh295.github.io/frozen.html",
    "vl_icl": "huggingface.co/datasets/ys-zong/VL-ICL",
}
_FROZEN = ("open_miniimagenet", "real_name_miniimagenet", "fast_vqa", "guided_vqa")
_SCALES = {"CIDEr": "0 to 10", "perception": "0 to 2000"}
_COLUMNS = ("task", "files in the folder", "from", "prompt", "answer", "main score", "scale", "chance")


def source_of(name: str) -> str:
    """Where the files of a benchmark are given."""
    if name.startswith(_FROZEN):
        return SOURCES["frozen"]
    return next(source for kin, source in SOURCES.items() if name.startswith(kin))


def scale_of(benchmark: Benchmark) -> str:
    """What the main score is counted in."""
    return "percent" if benchmark.scale == 100 else _SCALES.get(benchmark.main_score, "0 to 1")


def page() -> str:
    """The whole page."""
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|---" * len(_COLUMNS) + "|"]
    for benchmark in BENCHMARKS.values():
        template = benchmark.templates[0]
        prompt = (template.question + template.answer).replace("\n", " / ").replace("|", "\\|")
        cells = (
            f"`{benchmark.name}`",
            benchmark.files,
            source_of(benchmark.name),
            f"`{prompt}`",
            benchmark.method,
            benchmark.main_score,
            scale_of(benchmark),
            "" if benchmark.chance is None else f"{benchmark.chance:.3g}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return HEAD + "\n".join(lines) + "\n" + _ROBUSTNESS.format(kinds=", ".join(f"`{kind}`" for kind in CORRUPTIONS))


_ROBUSTNESS = """
## Robustness

`mmjax eval --robustness` asks each benchmark under corruptions too ({kinds}; `--robustness blur,typos` under these
alone): blur, Gaussian noise and JPEG at the five strengths of Hendrycks and Dietterich (2019), a grey rectangle over
10 to 60 percent of the picture, no picture at all, and questions of which 2 to 25 percent of the letters are mistyped.
Demonstrations stay as they are. Draws depend on the item and the seed, not on the strength. The table has the main
score of each strength, and by how much their mean is below the clean score, relative to it. Strengths are those of
pictures of 224 pixels: a larger picture is blurred in proportion, and its noise has larger grains.

## What is worth knowing

- **MMBench** asks each question once for each rotation of its options, and counts it if all are right; rotations that
  are not in the file are made. A letter is found by its rules; what has no clear letter is wrong.
- **MMMU** shows all pictures before the question, which names them (`<image 1>`). Letters are parsed as officially.
- **ImageNet, few-shot**: demonstrations are from the first 50 training pictures of each class, by name.
- **Hateful Memes** is scored by the probability of "yes" among the two answers.
- **VQAv2 and its kin**: an answer ends at its first comma, as OpenFlamingo cuts it.
- **Fast binding**: of a caption ("This is a dax.") that begins with the question's words the rest is the answer.
"""


def main() -> None:
    TABLE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
