"""Certificates of pairs of towers, and of text towers."""

import pytest

from tests.parity.certificates import prove, variants
from third_party.oracles import towers


@pytest.mark.parametrize("name, variant", variants(towers.FAMILIES))
def test_certificate(name, variant, tmp_path, quick_programs):
    prove(name, variant, tmp_path)
