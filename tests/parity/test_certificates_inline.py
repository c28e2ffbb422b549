"""Certificates of models whose pictures stand in the text."""

import pytest

from tests.parity.certificates import prove, variants
from third_party.oracles import inline


@pytest.mark.parametrize("name, variant", variants(inline.FAMILIES))
def test_certificate(name, variant, tmp_path, quick_programs):
    prove(name, variant, tmp_path)
