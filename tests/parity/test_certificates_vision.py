"""Certificates of picture encoders, and of one with a decoder that looks at it."""

import pytest

from tests.parity.certificates import prove, variants
from third_party.oracles import vision


@pytest.mark.parametrize("name, variant", variants(vision.FAMILIES))
def test_certificate(name, variant, tmp_path, quick_programs):
    prove(name, variant, tmp_path)
