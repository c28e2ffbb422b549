"""The options of the kinds that read benchmarks as training data, from the files that they are given in."""

from __future__ import annotations

import dataclasses

from mmjax.core.errors import ConfigError
from mmjax.data.sources.options import FilesOptions, PairOptions


@dataclasses.dataclass(frozen=True)
class CaptionOptions(PairOptions):
    """`coco`, `flickr30k`: files of captions beside their pictures; each caption is an example of its own.

    images: where pictures lie, as for pages.
    """

    images: str = ""


@dataclasses.dataclass(frozen=True)
class KarpathyOptions(CaptionOptions):
    """`karpathy`: `dataset_coco.json` or `dataset_flickr30k.json` (Karpathy and Fei-Fei 2015); each caption an example.

    splits: which parts of the file are read; COCO's training set is usually "train" and "restval" together.
    """

    splits: tuple[str, ...] = ("train", "restval")


@dataclasses.dataclass(frozen=True)
class QuestionOptions(FilesOptions):
    """Options of questions about pictures. Of several answers the most frequent is learned, of a tie the first.

    It is the one that scores highest by the measure of these sets, and an example's text may depend on its number
    alone. images: where pictures lie, as for pages. question: a template of the text before the answer, without loss;
    answer: one of the text that is learned.
    """

    images: str = ""
    question: str = "Question: {question} Short answer:"
    answer: str = " {answer}"

    def __post_init__(self):
        super().__post_init__()
        for name in ("question", "answer"):
            if f"{{{name}}}" not in getattr(self, name):
                raise ConfigError(
                    f"{name} must hold {{{name}}}, where that of the record comes: {getattr(self, name)!r}"
                )


@dataclasses.dataclass(frozen=True)
class VqaOptions(QuestionOptions):
    """`vqa`: VQAv2, OK-VQA and others of that layout: files of questions, and files of their answers.

    annotations: the files of answers. picture: the name of a picture; {image_id} is the record's number, and {split}
    the part that the file of the question has in its name, such as train2014.
    """

    annotations: tuple[str, ...] = ()
    picture: str = "COCO_{split}_{image_id:012d}.jpg"

    def __post_init__(self):
        super().__post_init__()
        if not self.annotations:
            raise ConfigError(
                "annotations is empty: name the files of answers, such as v2_mscoco_train2014_annotations.json"
            )
        try:
            self.picture.format(split="train2014", image_id=0)
        except (KeyError, ValueError, IndexError) as error:
            raise ConfigError(f"picture {self.picture!r} may hold {{split}} and {{image_id:012d}}: {error!r}") from None


@dataclasses.dataclass(frozen=True)
class TextVqaOptions(QuestionOptions):
    """`textvqa`: the files of TextVQA.

    ocr: files of words read from the pictures (Rosetta); {ocr} in question stands for them, `max_ocr` at most.
    picture: the name of a picture.
    """

    ocr: tuple[str, ...] = ()
    max_ocr: int = 50
    picture: str = "{image_id}.jpg"

    def __post_init__(self):
        super().__post_init__()
        if bool(self.ocr) != ("{ocr}" in self.question):
            raise ConfigError(
                "question holds {ocr} where the words stand that the files `ocr` give: set both or neither"
            )


@dataclasses.dataclass(frozen=True)
class Nlvr2Options(QuestionOptions):
    """`nlvr2`: lines of a sentence, a label and two pictures. {question} is the sentence, {answer} one of `words`.

    words: what is learned for a sentence that is true, and for one that is false. after: texts that follow the left and
    the right picture, without loss: in a Flamingo, where a text looks at the picture before it alone, the first of them
    is what looks at the left one, beside the picture's own token. Pictures are looked for in
    `images` under the record's directory, then in `images` itself.
    """

    question: str = "{question} True or false?"
    words: tuple[str, str] = ("True", "False")
    after: tuple[str, str] = ("", "")
