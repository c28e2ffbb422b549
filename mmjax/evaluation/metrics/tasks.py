"""The table of what `mmjax score` can score. Layouts and scales are those of each data set's official evaluation."""

from __future__ import annotations

from mmjax.evaluation.metrics.answer_tasks import (
    score_chartqa,
    score_docvqa,
    score_gqa,
    score_mme,
    score_nlvr2,
    score_pope,
    score_snli_ve,
    score_textvqa,
    score_vizwiz,
    score_vqa,
)
from mmjax.evaluation.metrics.caption_tasks import score_captions
from mmjax.evaluation.metrics.choice_tasks import (
    score_binding,
    score_matching,
    score_mmbench,
    score_mmmu,
    score_operator,
)
from mmjax.evaluation.metrics.layout import ScoringTask
from mmjax.evaluation.metrics.ranking_tasks import score_hateful_memes, score_imagenet, score_retrieval

_CAPTION_METRICS = "Bleu_1 to Bleu_4, METEOR, ROUGE_L, CIDEr (CIDEr-D), SPICE"
_CAPTION_SCALE = "0 to 1, CIDEr 0 to 10"
_CAPTIONS = "[{image_id, caption}]"
_ANSWERS = "[{question_id, answer}]"
_IN_PREDICTIONS = "none: the labels are in the predictions"
_WITH_QUESTIONS = ("references", "subset", "questions")

SCORING_TASKS = {
    "coco_caption": ScoringTask(
        _CAPTION_METRICS,
        _CAPTION_SCALE,
        _CAPTIONS,
        "{image_id: [captions]}, COCO's annotations, or Karpathy's dataset_coco.json",
        score_captions,
    ),
    "flickr30k": ScoringTask(
        _CAPTION_METRICS,
        _CAPTION_SCALE,
        _CAPTIONS,
        "{image_id: [captions]}, or Karpathy's dataset_flickr30k.json, where a file's name is the image_id",
        score_captions,
    ),
    "nocaps": ScoringTask(_CAPTION_METRICS, _CAPTION_SCALE, _CAPTIONS, "nocaps_val_4500_captions.json", score_captions),
    "vqav2": ScoringTask(
        "accuracy, of all and by type of answer",
        "percent",
        _ANSWERS,
        "v2_mscoco_val2014_annotations.json; --questions checks that they are the same questions",
        score_vqa,
        _WITH_QUESTIONS,
    ),
    "okvqa": ScoringTask(
        "accuracy", "percent", _ANSWERS, "mscoco_val2014_annotations.json", score_vqa, _WITH_QUESTIONS
    ),
    "textvqa": ScoringTask("accuracy", "percent", _ANSWERS, "TextVQA_0.5.1_val.json", score_textvqa),
    "vizwiz": ScoringTask("accuracy", "percent", "[{image, answer}]", "val.json", score_vizwiz),
    "docvqa": ScoringTask(
        "ANLS, threshold 0.5",
        "0 to 1",
        "[{questionId, answer}]",
        "val_v1.0.json: {data: [{questionId, answers}]}",
        score_docvqa,
    ),
    "chartqa": ScoringTask(
        "relaxed accuracy, 5%",
        "percent",
        "[{imgname, query, answer}] or [{question_id, answer}]",
        "test_human.json: [{imgname, query, label}], or the folder test/ of both files",
        score_chartqa,
    ),
    "gqa": ScoringTask(
        "accuracy of balanced questions: all, binary, open",
        "percent",
        "[{questionId, prediction}]",
        "testdev_balanced_questions.json",
        score_gqa,
    ),
    "nlvr2": ScoringTask(
        "accuracy, consistency", "0 to 1", "lines identifier,prediction (.csv), or records", "test1.json", score_nlvr2
    ),
    "snli_ve": ScoringTask("accuracy", "0 to 1", "[{pairID, prediction}]", "snli_ve_test.jsonl", score_snli_ve),
    "pope": ScoringTask(
        "accuracy, precision, recall, f1, yes_ratio",
        "0 to 1",
        "lines {question_id, answer}, or {answer} in the order of the labels",
        "coco_pope_popular.json",
        score_pope,
    ),
    "mme": ScoringTask(
        "each category, perception, cognition",
        "0 to 200 a category",
        "the official folder: CATEGORY.txt, lines picture, question, label, answer with tabs between",
        _IN_PREDICTIONS,
        score_mme,
        takes=(),
    ),
    "mmbench": ScoringTask(
        "circular accuracy, accuracy of the options as they stand first, and of each l2-category",
        "percent",
        "[{index, prediction}]",
        "mmbench_dev_*.tsv with labels; rotations that are not in it are made",
        score_mmbench,
    ),
    "mmmu": ScoringTask(
        "accuracy: all, disciplines, subjects",
        "percent",
        "{id: answer}",
        "answer_dict_val.json: {id: {question_type, ground_truth}}",
        score_mmmu,
    ),
    "vl_icl": ScoringTask(
        "accuracy: exact but for capitals", "percent", "[{answer, prediction}]", _IN_PREDICTIONS, score_binding, ()
    ),
    "vl_icl_operator": ScoringTask(
        "accuracy of the first number", "percent", "[{answer, prediction}]", _IN_PREDICTIONS, score_operator, ()
    ),
    "vl_icl_matching": ScoringTask(
        "accuracy of yes and no", "percent", "[{answer, prediction}]", _IN_PREDICTIONS, score_matching, ()
    ),
    "retrieval": ScoringTask(
        "Recall@1, 5, 10, images to texts and back",
        "percent",
        "similarities [images, texts], .npy",
        "the image of each text, counted from 0: .npy, .txt or a JSON list",
        score_retrieval,
        takes=("references",),
    ),
    "imagenet": ScoringTask(
        "top-1 and top-5 accuracy",
        "percent",
        "scores [pictures, classes], .npy",
        "the class of each picture, counted from 0: .npy, .txt or a JSON list",
        score_imagenet,
        takes=("references",),
    ),
    "hateful_memes": ScoringTask(
        "roc_auc, accuracy",
        "0 to 1",
        "id,proba,label with a heading (.csv)",
        "dev_seen.jsonl: {id, label}",
        score_hateful_memes,
    ),
}
