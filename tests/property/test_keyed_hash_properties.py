"""Different identifiers have different hashes, however their columns are cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.keyed_hash import keyed_hashes

TEXT = st.text(st.characters(codec="utf-8"), max_size=6) | st.text("ab", max_size=4)
IDENTIFIERS = st.lists(st.lists(TEXT, min_size=1, max_size=3).map(tuple), max_size=20)


@given(st.binary(min_size=32, max_size=32), IDENTIFIERS)
def test_hashes_are_equal_exactly_where_identifiers_are(key: bytes, identifiers: list[tuple[str, ...]]) -> None:
    hashes = [row.tobytes() for row in keyed_hashes(key, identifiers)]
    for first, left in zip(identifiers, hashes, strict=True):
        for second, right in zip(identifiers, hashes, strict=True):
            assert (left == right) == (first == second)
