"""Builders of TensorFlow Datasets for our own data: a folder of pictures with captions, and JSONL.

They need the package tensorflow-datasets, not TensorFlow, and write ArrayRecord files that the kind `tfds` reads:

    python -m third_party.tfds folder birds data/birds --data-dir ~/tensorflow_datasets
    python -m third_party.tfds jsonl pairs data/pairs.jsonl --images data/pictures --data-dir ~/tensorflow_datasets

write `~/tensorflow_datasets/birds/1.0.0`, which is read by

    {"kind": "tfds", "options": {"paths": ["~/tensorflow_datasets/birds/1.0.0"]}}

Pictures are stored as the bytes of their files; a builder that gave arrays would need TensorFlow to encode them.
"""
