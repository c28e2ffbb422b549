"""Settings that several decoder families share: activations, rotary positions, windows, heads, tied embeddings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from mmjax.core.errors import InputError
from mmjax.interop.family import Place, decoder_places
from mmjax.interop.settings import Setting, Tree, lookup, same
from mmjax.models.decoders.config import DecoderConfig, depth_plan
from mmjax.ops.rope import RopeScaling


def canonical(config: DecoderConfig) -> DecoderConfig:
    """The same model with all that is derived or does not matter spelt out, to compare configs by meaning."""
    scaling = config.rope_scaling
    return dataclasses.replace(
        config,
        kv_heads=config.attention.groups,
        attention_scale=config.head_width**-0.5 if config.attention_scale is None else config.attention_scale,
        qk_norm_kind=config.qk_norm_kind if config.qk_norm != "none" else "rms",
        norm_bias=config.norm_bias and config.norm == "layer",
        rope_scaling=None if scaling is None or scaling.kind == "none" else scaling,
        windows=shortest_cycle([config.windows[layer % len(config.windows)] for layer in range(config.layers)]),
    )


def shallow_places(config: DecoderConfig, prefix: str = "") -> dict[str, dict[int, Place]]:
    """Where the layers of a decoder without cross-attention lie, below `prefix`."""
    plan = depth_plan(config.layers, len(config.windows), None)
    return {"layer": decoder_places(config.layers, plan.superblocks, plan.layers_per_superblock, prefix)}


def sizes(*, mlp_width: str = "intermediate_size") -> tuple[Setting, ...]:
    """Vocabulary, width, depth, heads and the feed-forward's width."""
    return (
        same("vocab_size", "vocab_size"),
        same("hidden_size", "width"),
        same("num_hidden_layers", "layers"),
        same("num_attention_heads", "heads"),
        same(mlp_width, "mlp_width"),
    )


def headless(outside: Tree) -> bool:
    """Whether a checkpoint was saved without a head: by an architecture named ...Model that is not one with a head."""
    architecture = (outside.get("architectures") or [""])[0]
    return architecture.endswith("Model") and not architecture.endswith(("LMHeadModel", "EncoderDecoderModel"))


def tied(default: bool) -> Setting:
    """tie_word_embeddings; what was saved without a head has none of its own."""

    def read(outside: Tree) -> dict[str, Any]:
        return {"tied_embeddings": outside.get("tie_word_embeddings", default) or headless(outside)}

    return Setting(read, lambda config: {"tie_word_embeddings": config.tied_embeddings})


def tied_together(default: bool, *, in_text: bool = False) -> Setting:
    """tie_word_embeddings of a whole model; `in_text`: some checkpoints say it in text_config alone."""
    whole = tied(default)

    def read(outside: Tree) -> dict[str, Any]:
        text = (outside.get("text_config") or {}) if in_text else {}
        return {
            "decoder": {
                "tied_embeddings": whole.read(outside)["tied_embeddings"] or text.get("tie_word_embeddings", False)
            }
        }

    return Setting(read, lambda config: whole.write(config.decoder))


def without_head() -> Setting:
    """Of a whole model whose text_config says itself whether its embeddings are tied: not where there is no head."""
    return Setting(
        lambda outside: {"decoder": {"tied_embeddings": True}} if headless(outside) else {}, lambda config: {}
    )


def token_ids(**defaults: int) -> Setting:
    """Tokens that the reference has where config.json names none; null where the vocabulary does not reach so far."""

    def write(config: DecoderConfig) -> dict[str, Any]:
        return {key: None for key, token in defaults.items() if token >= config.vocab_size}

    return Setting(lambda outside: {}, write)


def key_value_heads(default: int | None = None) -> Setting:
    """num_key_value_heads; where it is missing or null, as many as heads."""

    def read(outside: Tree) -> dict[str, Any]:
        groups = outside.get("num_key_value_heads", default)
        return {"kv_heads": groups}

    return Setting(read, lambda config: {"num_key_value_heads": config.kv_heads or config.heads})


def head_width(default: int | None = None, *, written: bool = True) -> Setting:
    """head_dim; where it is missing or null, an equal share of the width."""

    def read(outside: Tree) -> dict[str, Any]:
        value = outside.get("head_dim", default) if written else None
        heads = next(outside[key] for key in ("num_attention_heads", "n_head", "n_heads") if key in outside)
        width = next(outside[key] for key in ("hidden_size", "n_embd", "d_model") if key in outside)
        if value is None and width % heads:
            raise InputError(f"config.json has a width of {width}, which does not divide into {heads} heads")
        return {"head_width": value or width // heads}

    return Setting(read, lambda config: {"head_dim": config.head_width} if written else {})


def query_scale() -> Setting:
    """query_pre_attn_scalar, whose inverse root multiplies the scores (Gemma-2 and 3)."""

    def read(outside: Tree) -> dict[str, Any]:
        return {"attention_scale": outside.get("query_pre_attn_scalar", 256) ** -0.5}

    def write(config: DecoderConfig) -> dict[str, Any]:
        scale = config.head_width**-0.5 if config.attention_scale is None else config.attention_scale
        return {"query_pre_attn_scalar": round(scale**-2)}

    return Setting(read, write)


def rope(*, base_key: str = "rope_theta", fraction_key: str | None = None, fraction: float = 1.0) -> Setting:
    """Rotary base, scaling and fraction: `rope_theta` and `rope_scaling`, or `rope_parameters` (transformers 5)."""

    def read(outside: Tree) -> dict[str, Any]:
        parameters = outside.get("rope_parameters") or outside.get("rope_scaling") or {}
        share = parameters.get("partial_rotary_factor", outside.get(fraction_key, fraction) if fraction_key else 1.0)
        return {
            "rope_base": float(parameters.get("rope_theta", outside.get(base_key, 10_000.0))),
            "rope_scaling": _read_scaling(parameters, outside.get("max_position_embeddings")),
            "rope_fraction": float(share),
        }

    def write(config: DecoderConfig) -> dict[str, Any]:
        scaling = config.rope_scaling
        keys = {base_key: config.rope_base, "rope_scaling": _write_scaling(scaling)}
        if scaling is not None and scaling.kind == "yarn":  # the reference warns where its own default does not fit
            keys["max_position_embeddings"] = round(scaling.factor * scaling.original_length)
        if fraction_key:
            keys[fraction_key] = config.rope_fraction
        return keys | {"rope_parameters": None}

    return Setting(read, write)


def sectioned_rope(default: Sequence[int]) -> Setting:
    """Rotary positions along several axes: `mrope_section` beside what `rope` reads; also as rope type "mrope"."""
    plain = rope()

    def read(outside: Tree) -> dict[str, Any]:
        parameters = dict(outside.get("rope_parameters") or outside.get("rope_scaling") or {})
        sections = tuple(parameters.pop("mrope_section", default))
        kind = parameters.pop("type", "default")
        if parameters.setdefault("rope_type", kind) == "mrope":
            parameters["rope_type"] = "default"
        found = plain.read({**outside, "rope_parameters": parameters})
        return {**found, "rope_sections": sections}

    def write(config: DecoderConfig) -> dict[str, Any]:
        keys = plain.write(config)
        scaling = {"rope_type": "default", **(keys["rope_scaling"] or {}), "mrope_section": config.rope_sections}
        return {**keys, "rope_scaling": scaling}

    return Setting(read, write)


def layered_rope() -> Setting:
    """Gemma-3: one base for layers with a window, another, which may be scaled, for those without."""

    def read(outside: Tree) -> dict[str, Any]:
        parameters = outside.get("rope_parameters") or {}
        wide = parameters.get("full_attention") or outside.get("rope_scaling") or {}
        near = parameters.get("sliding_attention") or {}
        if _read_scaling(near, None) is not None:
            raise InputError("config.json scales the rotary positions of layers with a window; that is not supported")
        return {
            "rope_base": float(wide.get("rope_theta", outside.get("rope_theta", 1e6))),
            "rope_local_base": float(near.get("rope_theta", outside.get("rope_local_base_freq", 10_000.0))),
            "rope_scaling": _read_scaling(wide, outside.get("max_position_embeddings")),
        }

    def write(config: DecoderConfig) -> dict[str, Any]:
        return {
            "rope_theta": config.rope_base,
            "rope_local_base_freq": config.rope_local_base,
            "rope_scaling": _write_scaling(config.rope_scaling),
            "rope_parameters": None,
        }

    return Setting(read, write)


# Keys of a scaling: outside name -> field of RopeScaling, by kind.
_SCALING_KEYS = {
    "linear": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "low_freq_factor": "low_freq_factor",
        "high_freq_factor": "high_freq_factor",
        "original_max_position_embeddings": "original_length",
    },
    "yarn": {
        "factor": "factor",
        "original_max_position_embeddings": "original_length",
        "beta_fast": "fast_turns",
        "beta_slow": "slow_turns",
    },
}
_OTHER_ROPE_KEYS = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}


def _read_scaling(parameters: Tree, max_length: int | None) -> RopeScaling | None:
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind == "default":
        return None
    if kind not in _SCALING_KEYS:
        raise InputError(f"config.json has rope scaling {kind!r}; known are: default, {', '.join(_SCALING_KEYS)}")
    keys = _SCALING_KEYS[kind]
    odd = [key for key, value in parameters.items() if key not in keys.keys() | _OTHER_ROPE_KEYS and value is not None]
    if odd:
        raise InputError(f"config.json has rope scaling {kind!r} with {', '.join(odd)}, which is not supported here")
    types = {field.name: type(field.default) for field in dataclasses.fields(RopeScaling)}
    fields = {field: types[field](parameters[key]) for key, field in keys.items() if parameters.get(key) is not None}
    if "original_max_position_embeddings" in keys and "original_length" not in fields:
        fields["original_length"] = max_length
    return RopeScaling(kind, **fields)


def _write_scaling(scaling: RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None or scaling.kind == "none":
        return None
    keys = _SCALING_KEYS[scaling.kind]
    return {"rope_type": scaling.kind} | {key: getattr(scaling, field) for key, field in keys.items()}


def shortest_cycle(windows: Sequence[int | None]) -> tuple[int | None, ...]:
    """The shortest tuple that, repeated, gives the windows of all layers."""
    for length in range(1, len(windows) + 1):
        if all(window == windows[layer % length] for layer, window in enumerate(windows)):
            return tuple(windows[:length])
    return (None,)


def layer_windows(pattern: int | None) -> Setting:
    """sliding_window and `layer_types`.

    Without these, every `pattern`-th layer is full (Gemma-2: 2, Gemma-3: 6). Without a pattern (Qwen), those below
    `max_window_layers` are full, and all of them where `use_sliding_window` is false.
    """

    def read(outside: Tree) -> dict[str, Any]:
        layers = outside["num_hidden_layers"]
        window = outside.get("sliding_window", 4096)
        if pattern is None and not outside.get("use_sliding_window", False):
            window = None
        kinds = outside.get("layer_types")
        if kinds is None and pattern is None:
            first = outside.get("max_window_layers", 28)
            kinds = ["sliding_attention" if layer >= first else "full_attention" for layer in range(layers)]
        elif kinds is None:
            every = outside.get("sliding_window_pattern", outside.get("_sliding_window_pattern", pattern))
            kinds = ["sliding_attention" if (layer + 1) % every else "full_attention" for layer in range(layers)]
        unknown = set(kinds) - {"sliding_attention", "full_attention"}
        if unknown or len(kinds) != layers:
            raise InputError(
                f"config.json has layer_types {kinds} for {layers} layers; known are sliding and full attention"
            )
        return {"windows": shortest_cycle([window if kind == "sliding_attention" else None for kind in kinds])}

    def write(config: DecoderConfig) -> dict[str, Any]:
        windows = [config.windows[layer % len(config.windows)] for layer in range(config.layers)]
        sizes = {window for window in windows if window is not None}
        if len(sizes) > 1:
            raise InputError(f"this layout has one sliding window for all layers, not {sorted(sizes)}")
        keys: dict[str, Any] = {
            "layer_types": ["full_attention" if w is None else "sliding_attention" for w in windows]
        }
        if sizes:
            keys["sliding_window"] = sizes.pop()
        if pattern is None:
            keys |= {"use_sliding_window": "sliding_window" in keys, "max_window_layers": config.layers}
        return keys

    return Setting(read, write)


def one_window(default: int | None) -> Setting:
    """sliding_window of all layers alike (Mistral)."""

    def read(outside: Tree) -> dict[str, Any]:
        return {"windows": (outside.get("sliding_window", default),)}

    def write(config: DecoderConfig) -> dict[str, Any]:
        if len(config.windows) > 1:
            raise InputError(f"this layout has the same window in all layers, not {config.windows}")
        return {"sliding_window": config.windows[0]}

    return Setting(read, write)


def hidden_width(width_key: str, key: str | None = None) -> Setting:
    """The feed-forward's width, if the layout has a key for it; else, and where that is null, 4 times the model's."""

    def read(outside: Tree) -> dict[str, Any]:
        return {"mlp_width": (key and outside.get(key)) or 4 * outside[width_key]}

    return Setting(read, lambda config: {key: config.mlp_width} if key else {})


def flags(names: Mapping[str, Sequence[str]], default: bool) -> tuple[Setting, ...]:
    """Outside booleans that each switch several fields of ours at once."""

    def make(key: str, fields: Sequence[str]) -> Setting:
        def write(config: Any) -> dict[str, Any]:
            values = {getattr(config, field) for field in fields}
            if len(values) > 1:
                raise InputError(f"this layout has one switch ({key}) for {', '.join(fields)}; they must be equal")
            return {key: values.pop()}

        return Setting(lambda outside: dict.fromkeys(fields, lookup(outside, key, default)), write)

    return tuple(make(key, fields) for key, fields in names.items())
