"""Array types of public signatures, and the dimension letters that they share with the einsums.

B batch                T text position       N image (in a row)     F frame
P patch                R latent              D width                H heads
G key/value heads      K head width          V vocabulary           S sequence in general
M feed-forward width   L layers              h, w, c  picture height, width, channels
"""

from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped, UInt8, UInt64

__all__ = ["Array", "Bool", "Float", "Int", "PyTree", "Shaped", "UInt8", "UInt64"]
