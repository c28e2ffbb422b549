"""How pictures meet text: gated cross-attention."""
