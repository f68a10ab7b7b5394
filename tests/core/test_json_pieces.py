"""JSON in pieces is the JSON that one call gives."""

from __future__ import annotations

import json
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_scripts.core.json_pieces import json_pieces

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
STYLES = [{}, {"indent": 1}, {"indent": 2}, {"separators": (",", ":")}]


@pytest.mark.parametrize("style", STYLES)
@given(
    st.dictionaries(st.text(max_size=3), st.dictionaries(st.text(max_size=3), PLAIN, max_size=3), max_size=3)
)
def test_the_same_characters(style: dict, value: dict) -> None:
    whole = json.dumps(value, sort_keys=True, ensure_ascii=False, **style)
    assert "".join(json_pieces(value, **style)) == whole
    large = {name: MappingProxyType(dict(sorted(each.items()))) for name, each in value.items()}
    assert "".join(json_pieces(large, **style)) == whole


def test_a_large_mapping_is_never_whole() -> None:
    pieces = json_pieces({"a": MappingProxyType({str(n): {"b": n} for n in range(100)})})
    assert max(map(len, pieces)) < 40
