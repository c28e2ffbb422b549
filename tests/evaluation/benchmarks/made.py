"""Small sets of files in the official layout of each benchmark."""

import base64
import io
import json

import numpy as np
import pyarrow
import pyarrow.parquet
import scipy.io
from PIL import Image

COLOURS = ("red", "lime", "blue", "yellow", "cyan", "magenta", "white", "black")


def picture(number, kind="JPEG", side=(24, 20)):
    buffer = io.BytesIO()
    Image.new("RGB", side, COLOURS[number % len(COLOURS)]).save(buffer, kind)
    return buffer.getvalue()


def put(folder, name, data):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(data, bytes):
        path.write_bytes(data)
    else:
        path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")


def lines(rows):
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def captions_of(number, count=5):
    return [f"A {COLOURS[number]} wall number {place} stands beside the {number} road." for place in range(count)]


def karpathy(folder, file="dataset_coco.json"):
    coco = file == "dataset_coco.json"
    images = []
    for number, split in enumerate(["test", "test", "test", "train", "restval", "val"]):
        part = "train2014" if split == "train" else "val2014"
        name = f"COCO_{part}_{number:012d}.jpg" if coco else f"{1000 + number}.jpg"
        image = {"filename": name, "split": split, "sentences": [{"raw": text} for text in captions_of(number)]}
        images.append({**image, **({"cocoid": number, "filepath": part} if coco else {})})
        put(folder, f"{part if coco else 'flickr30k-images'}/{name}", picture(number))
    put(folder, file, {"images": images, "dataset": "coco" if coco else "flickr30k"})


def flickr30k(folder):
    karpathy(folder, "dataset_flickr30k.json")


def nocaps(folder):
    karpathy(folder)
    images = [{"id": number, "file_name": f"{number:016x}.jpg", "domain": "in-domain"} for number in range(3)]
    annotations = [
        {"image_id": number, "id": 10 * number + place, "caption": text}
        for number in range(3)
        for place, text in enumerate(captions_of(number, 10))
    ]
    put(folder, "nocaps_val_4500_captions.json", {"images": images, "annotations": annotations})
    for number in range(3):
        put(folder, f"images/{number:016x}.jpg", picture(number))


PEOPLE = (
    ["yes"] * 9 + ["no"],
    ["red"] * 4 + ["dark red"] * 6,
    ["2"] * 10,
    ["Blue"] * 3 + ["the blue."] * 2 + ["navy"] * 5,
)


def _vqa(folder, questions, annotations):
    for part, first in (("val2014", 0), ("train2014", 2)):
        asked = [
            {"image_id": number, "question": f"What is\nseen at {number}?", "question_id": 100 + number}
            for number in range(first, first + 4)
        ]
        told = [
            {
                "question_id": 100 + number,
                "image_id": number,
                "answer_type": "other" if number % 2 else "yes/no",
                "answers": [{"answer": text, "answer_id": place} for place, text in enumerate(PEOPLE[number - first])],
            }
            for number in range(first, first + 4)
        ]
        put(folder, questions.format(part), {"questions": asked, "data_type": "mscoco"})
        put(folder, annotations.format(part), {"annotations": told})
        for number in range(first, first + 4):
            put(folder, f"{part}/COCO_{part}_{number:012d}.jpg", picture(number))


def vqav2(folder):
    _vqa(folder, "v2_OpenEnded_mscoco_{}_questions.json", "v2_mscoco_{}_annotations.json")


def okvqa(folder):
    _vqa(folder, "OpenEnded_mscoco_{}_questions.json", "mscoco_{}_annotations.json")


def textvqa(folder):
    for part in ("val", "train"):
        rows = [
            {"question_id": number, "image_id": f"{part}{number}", "question": "what does it say?", "answers": texts}
            for number, texts in enumerate(PEOPLE)
        ]
        put(folder, f"TextVQA_0.5.1_{part}.json", {"data": rows, "dataset_type": part})
        for number in range(len(PEOPLE)):
            put(folder, f"train_images/{part}{number}.jpg", picture(number))


def vizwiz(folder):
    for part in ("val", "train"):
        rows = [
            {
                "image": f"VizWiz_{part}_{number:08d}.jpg",
                "question": "What is this?",
                "answers": [{"answer": text, "answer_confidence": "yes"} for text in texts],
                "answer_type": "other",
            }
            for number, texts in enumerate(PEOPLE)
        ]
        put(folder, f"{part}.json", rows)
        for number, row in enumerate(rows):
            put(folder, f"{part}/{row['image']}", picture(number))


def docvqa(folder):
    for part in ("val", "train"):
        rows = [
            {
                "questionId": number,
                "question": "What is the date?",
                "image": f"documents/page{number}.png",
                "answers": [f"March {number}, 1970", f"3/{number}/70"],
            }
            for number in range(3)
        ]
        put(folder, f"{part}_v1.0.json", {"dataset_name": "SP-DocVQA", "data": rows})
        for number in range(3):
            put(folder, f"documents/page{number}.png", picture(number, "PNG"))


def chartqa(folder):
    for split in ("test", "train"):
        for part, first in (("human", 0), ("augmented", 2)):
            rows = [
                {"imgname": f"{number}.png", "query": "How many are red?", "label": f"{10 + number}.5"}
                for number in (first, first + 1, first)  # the last one stands there twice
            ]
            put(folder, f"{split}/{split}_{part}.json", rows)
            for number in range(first, first + 2):
                put(folder, f"{split}/png/{number}.png", picture(number, "PNG"))


def gqa(folder):
    for part in ("testdev", "train"):
        rows = {
            f"20{number}": {
                "question": "What colour is the wall?",
                "imageId": f"n{number}",
                "answer": COLOURS[number],
                "isBalanced": True,
                "types": {"structural": "query" if number % 2 else "verify"},
            }
            for number in range(4)
        }
        put(folder, f"{part}_balanced_questions.json", rows)
    for number in range(4):
        put(folder, f"images/n{number}.jpg", picture(number))


def nlvr2(folder):
    for part in ("test1", "train"):
        rows = []
        for number in range(4):
            key, where = f"{part}-0-{number}-0", f"images/train/{number}/" if part == "train" else "test1/"
            label = ("True", "False")[number % 2]
            row = {"identifier": key, "sentence": "The left wall is red.", "label": label}
            rows.append({**row, **({"directory": number} if part == "train" else {})})
            for side in range(2):
                put(folder, f"{where}{part}-0-{number}-img{side}.png", picture(number + side, "PNG"))
        put(folder, f"{part}.json", lines(rows))


def snli_ve(folder):
    verdicts = ("entailment", "neutral", "contradiction")
    for split in ("test", "train"):
        rows = [
            {
                "pairID": f"{number}.jpg#0r1{verdict[0]}",
                "Flickr30K_ID": str(number),
                "sentence2": "A wall stands.",
                "gold_label": verdict,
            }
            for number, verdict in enumerate(verdicts)
        ]
        put(folder, f"snli_ve_{split}.jsonl", lines(rows))
    for number in range(3):
        put(folder, f"flickr30k-images/{number}.jpg", picture(number))


def hateful_memes(folder):
    for file in ("dev_seen.jsonl", "train.jsonl"):
        rows = [
            {"id": 100 + number, "img": f"img/{100 + number}.png", "label": number % 2, "text": "such a {day}"}
            for number in range(4)
        ]
        put(folder, file, lines(rows))
    for number in range(4):
        put(folder, f"img/{100 + number}.png", picture(number, "PNG"))


SYNSETS = ("n01440764", "n02012849", "n03126707")


def imagenet(folder):
    """By folders of synsets; two classes have one name, as in ImageNet itself."""
    names = ("tench", "crane", "crane")
    index = {str(number): [synset, names[number]] for number, synset in enumerate(SYNSETS)}
    put(folder, "imagenet_class_index.json", index)
    for number, synset in enumerate(SYNSETS):
        for place in range(2):
            put(folder, f"val/{synset}/ILSVRC2012_val_{2 * number + place + 1:08d}.JPEG", picture(number))
            put(folder, f"train/{synset}/{synset}_{place}.JPEG", picture(number))


def imagenet_flat(folder, *, kaggle=False):
    """As the archive of the validation pictures and the development kit have them."""
    order = (2, 0, 1)
    for place, number in enumerate(order, 1):
        put(folder, f"val/ILSVRC2012_val_{place:08d}.JPEG", picture(number))
    words = "".join(f"{synset} thing {number}, other word\n" for number, synset in enumerate(SYNSETS))
    put(folder, "LOC_synset_mapping.txt", words)
    if kaggle:
        rows = [f"ILSVRC2012_val_{place:08d},{SYNSETS[number]} 1 2 3 4" for place, number in enumerate(order, 1)]
        put(folder, "LOC_val_solution.csv", "\n".join(["ImageId,PredictionString", *rows]))
        return
    # The kit numbers classes in an order of its own.
    kit = np.array([(3, SYNSETS[0]), (1, SYNSETS[1]), (2, SYNSETS[2])], [("ILSVRC2012_ID", "O"), ("WNID", "O")])
    own = {SYNSETS[0]: 3, SYNSETS[1]: 1, SYNSETS[2]: 2}
    scipy.io.savemat(folder / "meta.mat", {"synsets": kit})
    truth = "".join(f"{own[SYNSETS[number]]}\n" for number in order)
    put(folder, "ILSVRC2012_validation_ground_truth.txt", truth)


def pope(folder):
    for kind in ("random", "popular", "adversarial"):
        rows = [
            {
                "question_id": number + 1,
                "image": f"COCO_val2014_{number // 2:012d}.jpg",
                "text": "Is there a wall in the image?",
                "label": ("yes", "no")[number % 2],
            }
            for number in range(4)
        ]
        put(folder, f"coco_pope_{kind}.json", lines(rows))
    for number in range(2):
        put(folder, f"val2014/COCO_val2014_{number:012d}.jpg", picture(number))


def mme(folder):
    text = "Is there a wall? Please answer yes or no.\tYes\nIs there a dog? Please answer yes or no.\tNo\n"
    for number in range(2):
        put(folder, f"existence/{number}.txt", text)
        put(folder, f"existence/{number}.jpg", picture(number))
        put(folder, f"celebrity/questions_answers_YN/t{number}.txt", text)
        put(folder, f"celebrity/images/t{number}.png", picture(number, "PNG"))
        put(folder, f"code_reasoning/{number:04d}.txt", text)
        put(folder, f"code_reasoning/{number:04d}.png", picture(number, "PNG"))


MMBENCH = ("index", "question", "hint", "A", "B", "C", "D", "answer", "category", "l2-category", "image", "split")


def mmbench(folder):
    """Question 0 with its rotations, which name the row of the picture; questions 1 and 2 by themselves."""
    held = [base64.b64encode(picture(number)).decode() for number in range(3)]
    rows = [
        (0, "Which colour?", "Look well.", "red", "blue", "", "", "A", "colour", "look", held[0], "dev"),
        (1_000_000, "Which colour?", "Look well.", "blue", "red", "", "", "B", "colour", "look", "0", "dev"),
        (1, "Which\nshape?", "nan", "round", "flat", "long", "", "C", "shape", "look", held[1], "dev"),
        (2, "Which size?", "", "big", "small", "huge", "tiny", "B", "size", "think", held[2], "dev"),
    ]
    quoted = [[f'"{cell}"' if "\n" in str(cell) else str(cell) for cell in row] for row in rows]
    put(folder, "mmbench_dev_made.tsv", "\n".join("\t".join(row) for row in [MMBENCH, *quoted]) + "\n")


def mmmu_rows(part, pictures):
    rows = [
        ("Art_1", "multiple-choice", "Who made <image 1>?", "['Miro', 'Klee', 'Ernst']", "B", 1),
        ("Art_2", "multiple-choice", "Which of <image 1> and <image 2>?", "['<image 1>', '<image 2>']", "A", 2),
        ("Math_1", "open", "How many are there in <image 1>?", "[]", "7", 1),
        ("Math_2", "open", "What is <image 1>?", "[]", "['a square', '4']", 1),
    ]
    return [
        {
            "id": f"{part}_{name}",
            "question_type": kind,
            "question": question,
            "options": options,
            "answer": answer,
            **{f"image_{place}": pictures(place) if place <= count else None for place in range(1, 8)},
        }
        for name, kind, question, options, answer, count in rows
    ]


def mmmu(folder):
    """Art as Parquet, Math as JSON."""
    for part in ("validation", "dev"):
        held = mmmu_rows(part, lambda place: {"bytes": picture(place), "path": f"{place}.jpg"})
        path = folder / "Art" / f"{part}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(held[:2]), path)
        put(folder, f"Math/{part}.json", mmmu_rows(part, lambda place: f"images/{place}.jpg")[2:])
    put(folder, "Math/images/1.jpg", picture(1))


def frozen(folder, task, ways, asked="This is a"):
    words = ["dax", "blicket", "perpo", "slation", "gabe"][:ways]
    rows = []
    for number in range(2):
        row = {"question": asked, "answer": f"{words[number]}.", "question_image": f"{task}_{number}_question.jpg"}
        put(folder, row["question_image"], picture(number))
        # Two shots of each word, those of the first word first.
        for place, word in enumerate([word for word in words for _ in range(2)], 1):
            row |= {f"image_{place}": f"{task}_{number}_{place}.jpg", f"caption_{place}": f"This is a {word}."}
            put(folder, f"{task}_{number}_{place}.jpg", picture(place))
        rows.append(row)
    put(folder, f"{task}_shots_3_ways_{ways}_all_questions.json", rows)


def open_mi(folder):
    classes = ["dax", "blicket", "perpo"]
    rows = [
        {
            "id": number,
            "image": [f"open_mi/{number}.jpg"],
            "question": "This is a",
            "answer": classes[number],
            "classes": classes,
            "support": {name: {"images": [f"open_mi/{name}{place}.jpg" for place in range(3)]} for name in classes},
        }
        for number in range(2)
    ]
    put(folder, "open_mi/query.json", rows)
    for name in ("0", "1", *(f"{name}{place}" for name in classes for place in range(3))):
        put(folder, f"open_mi/{name}.jpg", picture(len(name)))


def vl_icl(folder, task, answer, **more):
    def row(number, told):
        return {"id": f"q{number}", "image": [f"{number}.jpg"], "question": "What is it?", "answer": told, **more}

    put(folder, f"{task}/query.json", [row(number, answer) for number in range(2)])
    if task == "matching_mi":
        support = [{"same": row(number, "yes"), "diff": row(number, "no")} for number in range(3)]
    else:
        told = [5, 1, 6] if task.startswith("operator") else answer
        support = [row(number, told) for number in range(3)]
    put(folder, f"{task}/support.json", support)
    for number in range(3):
        put(folder, f"{task}/{number}.jpg", picture(number))


MAKERS = {
    "coco_caption": karpathy,
    "flickr30k": flickr30k,
    "nocaps": nocaps,
    "vqav2": vqav2,
    "okvqa": okvqa,
    "textvqa": textvqa,
    "vizwiz": vizwiz,
    "docvqa": docvqa,
    "chartqa": chartqa,
    "gqa": gqa,
    "nlvr2": nlvr2,
    "snli_ve": snli_ve,
    "hateful_memes": hateful_memes,
    "imagenet_zero_shot": imagenet,
    "imagenet_few_shot": imagenet,
    "coco_retrieval": karpathy,
    "flickr30k_retrieval": flickr30k,
    "pope_random": pope,
    "pope_popular": pope,
    "pope_adversarial": pope,
    "mme": mme,
    "mmbench": mmbench,
    "mmmu": mmmu,
    "open_miniimagenet_2way": lambda folder: frozen(folder, "open_ended_mi", 2),
    "open_miniimagenet_5way": lambda folder: frozen(folder, "open_ended_mi", 5),
    "real_name_miniimagenet_2way": lambda folder: frozen(folder, "real_name_mi", 2),
    "real_name_miniimagenet_5way": lambda folder: frozen(folder, "real_name_mi", 5),
    "fast_vqa": lambda folder: frozen(folder, "fast_vqa", 2, "What is the dax made of?"),
    "guided_vqa": lambda folder: frozen(folder, "guided_vqa", 2, "What is the eagle on?"),
    "vl_icl_open_mi": open_mi,
    "vl_icl_clevr": lambda folder: vl_icl(folder, "clevr", "3"),
    "vl_icl_textocr": lambda folder: vl_icl(folder, "textocr", "STOP"),
    "vl_icl_operator_induction": lambda folder: vl_icl(folder, "operator_induction", 6, operator="x"),
    "vl_icl_operator_induction_interleaved": lambda folder: vl_icl(
        folder, "operator_induction_interleaved", 1, operator="-"
    ),
    "vl_icl_matching_mi": lambda folder: vl_icl(folder, "matching_mi", "yes"),
}
