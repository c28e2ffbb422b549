"""Certificates of models whose text looks at pictures by cross-attention."""

import pytest

from tests.parity.certificates import prove, variants
from third_party.oracles import cross


@pytest.mark.parametrize("name, variant", variants(cross.FAMILIES))
def test_certificate(name, variant, tmp_path, quick_programs):
    prove(name, variant, tmp_path)
