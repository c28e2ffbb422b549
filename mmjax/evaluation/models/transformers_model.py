"""A model of transformers through the same harness, so that ours and theirs are compared like with like."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.core.arrays import Float
from mmjax.core.errors import InputError
from mmjax.core.example import Media, Text
from mmjax.decoding.prompt import Prompt
from mmjax.decoding.stops import before_stop
from mmjax.evaluation.models.layouts import as_picture, continued, lay_out_prompt
from mmjax.evaluation.models.model import Progress, Rated

# What a token written after the prompt has in the arrays that have a place for each token; others repeat their last.
_FOR_WRITTEN = {"attention_mask": 1, "mm_token_type_ids": 0}
# The reference's classes, by what its registry calls them, in the order in which they are tried.
_AUTO_CLASSES = ("AutoModelForImageTextToText", "AutoModelForCausalLM", "AutoModel")


class TransformersModel:
    """A checkpoint in the layout of transformers, run by transformers on torch: in float32, a prompt at a time.

    One at a time, so that what is said of a prompt does not depend on how others are padded. On a GPU if torch has one.

    Raises:
      InputError: torch or transformers is not installed, or transformers cannot open the folder.
    """

    def __init__(self, folder: str | Path):
        self._torch, transformers = _imported("torch"), _imported("transformers")
        self.name = f"hf:{Path(folder).name}"
        if not (Path(folder) / "config.json").is_file():
            raise InputError(f"{folder} has no config.json; give a folder in the layout of transformers")
        try:
            self._model = _opened(transformers, folder)
            self._processor = transformers.AutoProcessor.from_pretrained(folder)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise InputError(f"transformers cannot open {folder}: {str(error).strip().splitlines()[0]}") from error
        self._device = "cuda" if self._torch.cuda.is_available() else "cpu"
        self._model = self._model.to(self._device).eval()
        self._tokenizer = getattr(self._processor, "tokenizer", self._processor)

    def write(
        self, prompts: Sequence[Prompt], *, max_tokens: int, stop: Sequence[str], beams: int, progress: Progress
    ) -> list[str]:
        """As `EvaluatedModel.write`.

        Raises:
          InputError: the model does not write.
        """
        if not self._model.can_generate():
            raise InputError(f"{self.name} ({type(self._model).__name__}) does not write text")
        written = []
        for prompt in prompts:
            arrays = self._read(prompt)
            settings = {"max_new_tokens": max_tokens, "do_sample": False, "num_beams": beams}
            # Decoders that start from a token of their own return no prompt.
            start = 0 if self._model.config.is_encoder_decoder else arrays["input_ids"].shape[1]

            def stopped(tokens, scores, start=start, **further):
                texts = [self._text(row[start:]) for row in tokens]
                return self._torch.tensor([before_stop(text, stop) != text for text in texts], device=tokens.device)

            with self._torch.inference_mode():
                tokens = self._model.generate(**arrays, **settings, stopping_criteria=[stopped] if stop else None)[0]
            written.append(before_stop(self._text(tokens[start:]), stop))
            progress(1)
        return written

    def rate(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[Text]], *, progress: Progress
    ) -> list[Rated]:
        """As `EvaluatedModel.rate`.

        Raises:
          InputError: a continuation without a token.
        """
        rated = []
        for prompt, texts in zip(prompts, continuations, strict=True):
            arrays = self._read(prompt)
            tokens = [self._tokens(text) for text in texts]
            rated.append(Rated(np.array([self._rate(arrays, row) for row in tokens]), tuple(map(len, tokens))))
            progress(1)
        return rated

    def embed_pictures(self, pictures: Sequence[Media], *, progress: Progress) -> Float[np.ndarray, "N D"]:
        """As `EvaluatedModel.embed_pictures`.

        Raises:
          InputError: the model has no features of pictures.
        """
        if not hasattr(self._model, "get_image_features"):
            raise InputError(f"{self.name} ({type(self._model).__name__}) has no features of pictures")
        processor = getattr(self._processor, "image_processor", self._processor)
        vectors = []
        for picture in pictures:
            arrays = processor(images=[as_picture(picture).convert("RGB")], return_tensors="pt").to(self._device)
            vectors.append(self._vector("get_image_features", arrays))
            progress(1)
        return np.stack(vectors)

    def embed_texts(self, texts: Sequence[str], *, progress: Progress) -> Float[np.ndarray, "N D"]:
        """As `EvaluatedModel.embed_texts`.

        Raises:
          InputError: the model has no tower of texts.
        """
        if not hasattr(self._model, "get_text_features"):
            raise InputError(f"{self.name} ({type(self._model).__name__}) does not compare texts with pictures")
        longest = min(self._tokenizer.model_max_length, self._model.config.text_config.max_position_embeddings)
        # SigLIP was trained on rows filled up to their full length, and says so in no file.
        filled = "max_length" if self._model.config.model_type.startswith("siglip") else "longest"
        vectors = []
        for text in texts:
            arrays = self._tokenizer([text], padding=filled, truncation=True, max_length=longest, return_tensors="pt")
            vectors.append(self._vector("get_text_features", arrays.to(self._device)))
            progress(1)
        return np.stack(vectors)

    def _text(self, tokens: Any) -> str:
        return self._tokenizer.decode(tokens.tolist(), skip_special_tokens=True)

    def _vector(self, method: str, arrays: Any) -> Float[np.ndarray, "D"]:
        with self._torch.inference_mode():
            found = getattr(self._model, method)(**arrays)
        found = getattr(found, "pooler_output", found)
        found = self._torch.cat(list(found)) if isinstance(found, list | tuple) else found
        vector = found.reshape(-1, found.shape[-1]).float().mean(0).cpu().numpy()
        return vector / np.linalg.norm(vector)

    def _read(self, prompt: Prompt) -> dict[str, Any]:
        """The arrays of one prompt."""
        name = type(self._processor).__name__
        text, media = lay_out_prompt(prompt, name, self._placeholder())
        pictures = {"images": [[as_picture(medium).convert("RGB") for medium in media]]} if media else {}
        if name == "PaliGemmaProcessor" and not media:
            raise InputError("PaliGemma takes no prompts without a picture")
        arrays = self._processor(text=[text], return_tensors="pt", **pictures)
        return {key: value.to(self._device) for key, value in arrays.items()}

    def _placeholder(self) -> str:
        for name in ("boi_token", "image_token"):
            token = getattr(self._processor, name, None)
            if token is not None:
                return str(token)
        return "<image>"

    def _tokens(self, text: Text) -> list[int]:
        tokens = self._tokenizer(continued(text, type(self._processor).__name__), add_special_tokens=False)["input_ids"]
        if not tokens:
            raise InputError(f"a continuation to be rated has no token: {text.text!r}")
        return tokens

    def _rate(self, arrays: dict[str, Any], tokens: Sequence[int]) -> float:
        """log p(tokens | prompt), the tokens read behind the prompt as they would be written."""
        torch, count = self._torch, len(tokens)
        whole = dict(arrays)
        length = arrays["input_ids"].shape[1]
        row = torch.tensor([tokens], device=self._device, dtype=arrays["input_ids"].dtype)
        whole["input_ids"] = torch.cat([arrays["input_ids"], row], dim=1)
        # What PaliGemma writes is marked 1, what Gemma 3 writes 0: that of its pictures is 1.
        filling = {**_FOR_WRITTEN, "token_type_ids": int(self._model.config.model_type == "paligemma")}
        for name, value in arrays.items():
            if name == "input_ids" or value.ndim < 2 or value.shape[1] != length or name.startswith("pixel"):
                continue
            more = value[:, -1:].repeat_interleave(count, dim=1)
            whole[name] = torch.cat([value, torch.full_like(more, filling[name]) if name in filling else more], dim=1)
        with torch.inference_mode():
            logits = self._model(**whole).logits[0, -count - 1 : -1].float()
        told = torch.log_softmax(logits, dim=-1)
        return float(told[torch.arange(count), row[0]].sum())


def _opened(transformers: Any, folder: str | Path) -> Any:
    """The class that the registry has for the checkpoint's kind of model."""
    config = transformers.AutoConfig.from_pretrained(folder)
    for name in _AUTO_CLASSES:
        auto = getattr(transformers, name)
        named = auto._model_mapping.get(type(config), None)
        if named is not None:
            return auto.from_pretrained(folder, dtype="float32")
    raise InputError(f"transformers has no model for {json.dumps(config.model_type)} that could be evaluated")


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"--model hf:DIR runs on {name}, which is not installed: pip install {name}") from error
