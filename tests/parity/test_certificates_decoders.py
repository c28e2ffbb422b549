"""Certificates of language models and of BERT."""

import pytest

from tests.parity.certificates import prove, variants
from third_party.oracles import decoders


@pytest.mark.parametrize("name, variant", variants(decoders.FAMILIES))
def test_certificate(name, variant, tmp_path, quick_programs):
    prove(name, variant, tmp_path)
