"""Full-size models as published: the config.json of the hub, without what does not concern the model, and its size."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Published:
    """One model.

    config: what its config.json says.
    parameters: how many it has, as published.
    digits: how many leading digits of that number are known to us; None: all.
    counted: what the names of the tensors begin with that the number counts ({} for a number); empty: all.
    detected: what config.json leaves open and the tensors say ({part: {field: value}} for parts).
    names: some tensors of the released file, by the names that they have there.
    """

    config: Mapping[str, Any]
    parameters: int
    digits: int | None = None
    detected: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    counted: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


def sizes(width: int, layers: int, heads: int, mlp: int, **more: Any) -> dict[str, Any]:
    """The keys that nearly all configs have."""
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    return dict(zip(names, (width, layers, heads, mlp), strict=True)) | more


LLAMA3_SCALING = {
    "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}  # fmt: skip
CLIP_L = sizes(1024, 24, 16, 4096, model_type="clip_vision_model", patch_size=14, projection_dim=768)
SO400M = sizes(1152, 27, 16, 4304, model_type="siglip_vision_model", patch_size=14)
VICUNA = {"model_type": "llama", "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "vocab_size": 32064}
LLAVA = {
    "image_token_index": 32000, "projector_hidden_act": "gelu", "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default", "vision_config": CLIP_L | {"image_size": 336},
}  # fmt: skip
LLAVA_NEXT = LLAVA | {
    "model_type": "llava_next", "tie_word_embeddings": False,
    "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
}  # fmt: skip
QWEN_VISION = {
    "depth": 32, "hidden_act": "silu", "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "in_chans": 3,
    "patch_size": 14, "spatial_merge_size": 2, "spatial_patch_size": 14, "window_size": 112, "tokens_per_second": 2,
    "fullatt_block_indexes": [7, 15, 23, 31], "temporal_patch_size": 2,
}  # fmt: skip
QWEN = {
    "model_type": "qwen2_5_vl", "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "sliding_window": 32768,
    "use_sliding_window": False, "hidden_act": "silu", "image_token_id": 151655, "video_token_id": 151656,
    "vision_start_token_id": 151652, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
}  # fmt: skip
SMOLLM2 = {"model_type": "llama", "rms_norm_eps": 1e-5, "hidden_act": "silu"}
SIGLIP_512 = sizes(768, 12, 12, 3072, model_type="idefics3", image_size=512, patch_size=16)
MLLAMA_TILES = [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]]


def mllama_11b(image_size: int) -> dict[str, Any]:
    """The base model and the one for instructions differ in the size of their pictures."""
    text = sizes(4096, 40, 32, 14336, model_type="mllama_text_model", num_key_value_heads=8, vocab_size=128256)
    vision = sizes(1280, 32, 16, 5120, model_type="mllama_vision_model", image_size=image_size, patch_size=14)
    vision["attention_heads"] = vision.pop("num_attention_heads")
    return {
        "model_type": "mllama",
        "image_token_index": 128256,
        "text_config": text
        | {"cross_attention_layers": [3, 8, 13, 18, 23, 28, 33, 38], "rms_norm_eps": 1e-5, "hidden_act": "silu"}
        | {"rope_theta": 500000.0, "rope_scaling": LLAMA3_SCALING, "pad_token_id": 128004},
        "vision_config": vision
        | {"max_num_tiles": 4, "num_global_layers": 8, "intermediate_layers_indices": [3, 7, 15, 23, 30]}
        | {"supported_aspect_ratios": MLLAMA_TILES, "vision_output_dim": 7680, "hidden_act": "gelu"},
    }


# Of LLaVA's relatives.
RELEASED = (
    "language_model.model.layers.0.self_attn.q_proj.weight",
    "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight",
)
LLAVA_NAMES = (*RELEASED, "multi_modal_projector.linear_1.weight", "language_model.lm_head.weight")
IDEFICS3_NAMES = (
    "model.text_model.layers.0.self_attn.q_proj.weight", "model.vision_model.encoder.layers.0.self_attn.q_proj.weight",
    "model.connector.modality_projection.proj.weight", "lm_head.weight",
)  # fmt: skip
QWEN_NAMES = (
    "visual.blocks.0.attn.qkv.weight", "visual.merger.mlp.0.weight", "visual.patch_embed.proj.weight",
    "model.layers.0.self_attn.q_proj.weight", "model.embed_tokens.weight",
)  # fmt: skip
BLIP_NAMES = (
    "query_tokens", "language_projection.weight", "vision_model.encoder.layers.0.self_attn.qkv.weight",
    "vision_model.embeddings.position_embedding", "qformer.encoder.layer.0.crossattention.attention.query.weight",
    "qformer.encoder.layer.0.intermediate_query.dense.weight",
)  # fmt: skip

PUBLISHED: dict[str, Published] = {
    "bert-base-uncased": Published(
        sizes(768, 12, 12, 3072, model_type="bert", hidden_act="gelu", layer_norm_eps=1e-12, vocab_size=30522)
        | {"max_position_embeddings": 512, "type_vocab_size": 2, "position_embedding_type": "absolute"},
        109_482_240,
        detected={"projection": 768},
        names=("bert.embeddings.word_embeddings.weight", "bert.encoder.layer.0.attention.self.query.weight",
               "bert.pooler.dense.weight"),
    ),
    "clip-vit-base-patch32": Published(
        {"model_type": "clip", "projection_dim": 512, "logit_scale_init_value": 2.6592,
         "text_config": sizes(512, 12, 8, 2048, model_type="clip_text_model", vocab_size=49408, eos_token_id=2),
         "vision_config": sizes(768, 12, 12, 3072, model_type="clip_vision_model", image_size=224, patch_size=32)},
        151_277_313,
        names=("text_model.encoder.layers.0.self_attn.q_proj.weight", "visual_projection.weight", "logit_scale",
               "vision_model.pre_layrnorm.weight", "text_projection.weight"),
    ),
    "clip-vit-large-patch14": Published(
        {"model_type": "clip", "projection_dim": 768, "logit_scale_init_value": 2.6592,
         "text_config": sizes(768, 12, 12, 3072, model_type="clip_text_model", vocab_size=49408, eos_token_id=2),
         "vision_config": CLIP_L | {"image_size": 224}},
        427_616_513,
    ),
    "siglip-base-patch16-224": Published(
        {"model_type": "siglip", "text_config": {"model_type": "siglip_text_model"},
         "vision_config": {"model_type": "siglip_vision_model"}},
        203_155_970,
        names=("vision_model.head.probe", "text_model.head.weight", "logit_bias",
               "vision_model.head.attention.in_proj_weight"),
    ),
    "siglip-so400m-patch14-384": Published(
        {"model_type": "siglip", "text_config": sizes(1152, 27, 16, 4304, model_type="siglip_text_model"),
         "vision_config": SO400M | {"image_size": 384}},
        877_960_498,
    ),
    "convnext-tiny-224": Published(
        {"model_type": "convnext", "depths": [3, 3, 9, 3], "hidden_sizes": [96, 192, 384, 768], "num_stages": 4,
         "patch_size": 4, "hidden_act": "gelu", "layer_norm_eps": 1e-12, "layer_scale_init_value": 1e-6},
        28_589_128,
        detected={"projection": 1000},
        names=("convnext.embeddings.patch_embeddings.weight", "convnext.encoder.stages.0.layers.0.dwconv.weight",
               "classifier.weight"),
    ),
    "vit-base-patch16-224": Published(
        sizes(768, 12, 12, 3072, model_type="vit", hidden_act="gelu", image_size=224, patch_size=16, qkv_bias=True)
        | {"layer_norm_eps": 1e-12},
        86_567_656,
        detected={"projection": 1000, "projection_bias": True},
        names=("vit.embeddings.cls_token", "vit.encoder.layer.0.attention.attention.query.weight", "classifier.weight"),
    ),
    "dinov2-base": Published(
        {"model_type": "dinov2", "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
         "image_size": 518, "patch_size": 14, "layerscale_value": 1.0, "mlp_ratio": 4, "use_swiglu_ffn": False},
        86_580_480,
        detected={"mask_token": True},
        names=("embeddings.mask_token", "encoder.layer.0.layer_scale1.lambda1"),
    ),
    "llava-1.5-7b": Published(
        LLAVA | {"model_type": "llava", "text_config": VICUNA}, 7_063_427_072, names=LLAVA_NAMES,
    ),
    "llava-v1.6-vicuna-7b": Published(
        LLAVA_NEXT | {"text_config": VICUNA}, 7_060_000_000, 3, names=(*LLAVA_NAMES, "image_newline"),
    ),
    "llava-v1.6-mistral-7b": Published(
        LLAVA_NEXT
        | {"text_config": {"model_type": "mistral", "intermediate_size": 14336, "max_position_embeddings": 32768,
                           "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 1000000.0,
                           "sliding_window": None, "vocab_size": 32064}},
        7_570_000_000, 3,
        names=(*LLAVA_NAMES, "image_newline"),
    ),
    "paligemma-3b-pt-224": Published(
        {"model_type": "paligemma", "image_token_index": 257152, "hidden_size": 2048, "projection_dim": 2048,
         "text_config": sizes(2048, 18, 8, 16384, model_type="gemma", num_key_value_heads=1, vocab_size=257216),
         "vision_config": SO400M | {"vision_use_head": False, "projection_dim": 2048}},
        2_923_466_480,
        names=(*RELEASED, "multi_modal_projector.linear.weight"),
    ),
    "paligemma2-3b-pt-224": Published(
        {"model_type": "paligemma", "image_token_index": 257152, "hidden_size": 2304, "projection_dim": 2304,
         "text_config": sizes(2304, 26, 8, 9216, model_type="gemma2", num_key_value_heads=4, vocab_size=257216,
                              head_dim=256, query_pre_attn_scalar=256, sliding_window=4096,
                              hidden_activation="gelu_pytorch_tanh"),
         "vision_config": SO400M | {"vision_use_head": False, "projection_dim": 2304}},
        3_030_000_000, 3,
        names=(*RELEASED, "multi_modal_projector.linear.weight"),
    ),
    "gemma-3-4b-it": Published(
        {"model_type": "gemma3", "image_token_index": 262144, "mm_tokens_per_image": 256,
         "text_config": {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240,
                         "num_hidden_layers": 34, "sliding_window": 1024,
                         "rope_scaling": {"factor": 8.0, "rope_type": "linear"}},
         "vision_config": SO400M | {"image_size": 896, "vision_use_head": False}},
        4_300_079_472,
        names=(*RELEASED, "multi_modal_projector.mm_input_projection_weight"),
    ),
    "blip2-opt-2.7b": Published(
        {"model_type": "blip-2", "image_token_index": 50265, "num_query_tokens": 32,
         "use_decoder_only_language_model": True, "qformer_config": {"model_type": "blip_2_qformer"},
         "text_config": {"model_type": "opt", "ffn_dim": 10240, "hidden_size": 2560, "num_attention_heads": 32,
                         "num_hidden_layers": 32, "word_embed_proj_dim": 2560},
         "vision_config": {"model_type": "blip_2_vision_model"}},
        3_744_679_936,
        names=(*BLIP_NAMES, "language_model.model.decoder.layers.0.self_attn.q_proj.weight"),
    ),
    "instructblip-vicuna-7b": Published(
        {"model_type": "instructblip", "image_token_index": 32000, "num_query_tokens": 32,
         "use_decoder_only_language_model": True,
         "qformer_config": {"model_type": "instructblip_qformer", "vocab_size": 30523},
         "text_config": sizes(4096, 32, 32, 11008, model_type="llama", vocab_size=32001, rms_norm_eps=1e-6),
         "vision_config": {"model_type": "instructblip_vision_model"}},
        7_910_000_000, 3,
        names=(*BLIP_NAMES, "language_model.model.layers.0.self_attn.q_proj.weight",
               "qformer.embeddings.word_embeddings.weight"),
    ),
    "idefics-9b": Published(
        sizes(4096, 32, 32, 11008, model_type="idefics", vocab_size=32000, additional_vocab_size=2)
        | {"alpha_type": "float", "cross_layer_interval": 4, "qk_layer_norms": True, "rms_norm_eps": 1e-6,
           "tie_word_embeddings": False, "use_resampler": True,
           "perceiver_config": {"qk_layer_norms_perceiver": True, "resampler_depth": 6, "resampler_head_dim": 96,
                                "resampler_n_heads": 16, "resampler_n_latents": 64, "use_resampler": True},
           "vision_config": {"embed_dim": 1280, "image_size": 224, "intermediate_size": 5120,
                             "num_attention_heads": 16, "num_hidden_layers": 32, "patch_size": 14}},
        8_929_679_632,
        names=("model.gated_cross_attn_layers.0.alpha_cross_attn", "model.perceiver_resampler.latents",
               "model.embed_tokens.additional_embedding.weight", "lm_head.additional_fc.weight",
               "model.vision_model.encoder.layers.0.self_attn.q_proj.weight"),
    ),
    "Llama-3.2-11B-Vision": Published(
        mllama_11b(448), 10_642_941_475,
        names=("language_model.model.layers.3.cross_attn.q_proj.weight", "language_model.lm_head.weight",
               "vision_model.gated_positional_embedding.tile_embedding.weight", "multi_modal_projector.weight"),
    ),
    "Llama-3.2-11B-Vision-Instruct": Published(mllama_11b(560), 10_670_220_835),
    "Qwen2.5-VL-3B-Instruct": Published(
        QWEN
        | sizes(2048, 36, 16, 11008, num_key_value_heads=2, vocab_size=151936, tie_word_embeddings=True)
        | {"max_window_layers": 70, "vision_config": QWEN_VISION | {"out_hidden_size": 2048}},
        3_754_622_976,
        names=QWEN_NAMES,
    ),
    "Qwen2.5-VL-7B-Instruct": Published(
        QWEN
        | sizes(3584, 28, 28, 18944, num_key_value_heads=4, vocab_size=152064, tie_word_embeddings=False)
        | {"max_window_layers": 28, "vision_config": QWEN_VISION | {"out_hidden_size": 3584}},
        8_292_166_656,
        names=(*QWEN_NAMES, "lm_head.weight"),
    ),
    "Idefics3-8B-Llama3": Published(
        {"model_type": "idefics3", "image_token_id": 128257, "scale_factor": 2, "tie_word_embeddings": False,
         "text_config": sizes(4096, 32, 32, 14336, model_type="llama", num_key_value_heads=8, vocab_size=128259,
                              rms_norm_eps=1e-5, rope_theta=500000.0),
         "vision_config": SO400M | {"model_type": "idefics3", "image_size": 364}},
        8_460_000_000, 3,
        names=IDEFICS3_NAMES,
    ),
    "SmolVLM-256M-Instruct": Published(
        {"model_type": "idefics3", "image_token_id": 49190, "scale_factor": 4, "tie_word_embeddings": False,
         "text_config": SMOLLM2
         | sizes(576, 30, 9, 1536, num_key_value_heads=3, vocab_size=49280, rope_theta=100000.0),
         "vision_config": SIGLIP_512},
        256_484_928,
        names=IDEFICS3_NAMES,
    ),
    "SmolVLM-500M-Instruct": Published(
        {"model_type": "idefics3", "image_token_id": 49190, "scale_factor": 4, "tie_word_embeddings": False,
         "text_config": SMOLLM2
         | sizes(960, 32, 15, 2560, num_key_value_heads=5, vocab_size=49280, rope_theta=100000.0),
         "vision_config": SIGLIP_512},
        507_482_304,
        names=IDEFICS3_NAMES,
    ),
    "SmolVLM-Instruct": Published(
        {"model_type": "idefics3", "image_token_id": 49153, "scale_factor": 3, "tie_word_embeddings": False,
         "text_config": SMOLLM2
         | sizes(2048, 24, 32, 8192, num_key_value_heads=32, vocab_size=49155, rope_theta=273768.0),
         "vision_config": SO400M | {"model_type": "idefics3", "image_size": 384}},
        2_246_272_880,
        names=IDEFICS3_NAMES,
    ),
    "SmolVLM2-500M-Video-Instruct": Published(
        {"model_type": "smolvlm", "image_token_id": 49190, "scale_factor": 4, "tie_word_embeddings": False,
         "text_config": SMOLLM2
         | sizes(960, 32, 15, 2560, num_key_value_heads=5, vocab_size=49280, rope_theta=100000.0),
         "vision_config": SIGLIP_512 | {"model_type": "smolvlm_vision"}},
        507_482_304,
        names=IDEFICS3_NAMES,
    ),
    "OpenFlamingo-9B-vitl-mpt7b": Published(
        {"model_type": "open_flamingo", "media_token_id": 50278, "eoc_token_id": 50277,
         "cross_attn_every_n_layers": 4, "vis_dim": 1024,
         "vision_cfg": {"width": 1024, "layers": 24, "image_size": 224, "patch_size": 14, "quick_gelu": True},
         "lang": {"model_type": "mpt", "d_model": 4096, "n_heads": 32, "n_layers": 32, "no_bias": True,
                  "vocab_size": 50280, "max_seq_len": 2048,
                  "attn_config": {"alibi": True, "alibi_bias_max": 8, "qk_ln": False}}},
        1_384_781_840,
        detected={"vision": {"projection": 768}},
        counted=("perceiver.", "lang_encoder.transformer.blocks.{}.gated_cross_attn_layer.",
                 "lang_encoder.transformer.wte."),
        names=("perceiver.latents", "lang_encoder.transformer.wte.weight",
               "lang_encoder.transformer.blocks.3.gated_cross_attn_layer.attn.to_q.weight"),
    ),
    "vit-gpt2-image-captioning": Published(
        {"model_type": "vision-encoder-decoder", "decoder_start_token_id": 50256, "pad_token_id": 50256,
         "encoder": sizes(768, 12, 12, 3072, model_type="vit", image_size=224, patch_size=16),
         "decoder": {"model_type": "gpt2", "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024,
                     "vocab_size": 50257, "add_cross_attention": True, "is_decoder": True}},
        239_195_904,
        detected={"vision": {"projection": 768, "projection_bias": True, "projection_activation": "tanh"}},
        names=("encoder.embeddings.cls_token", "decoder.transformer.h.0.crossattention.q_attn.weight"),
    ),
}  # fmt: skip
