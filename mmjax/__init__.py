"""mmjax: multimodal language models in JAX, from a laptop to a TPU pod."""

__version__ = "0.1.0"
__all__ = ["__version__", "load_pretrained"]


def __getattr__(name: str):
    if name == "load_pretrained":
        # When it is asked for: importing a part of mmjax must not import all of it.
        from mmjax.interop.pretrained import load_pretrained

        return load_pretrained
    raise AttributeError(f"module 'mmjax' has no attribute {name!r}")
