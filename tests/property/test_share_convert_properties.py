"""Step 7 for any sizes, fields, parts and orders of delivery."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sharing import Study, interpolate, pairs_of_parties

from pipeline.field import FIELD_127, FIELD_191, FIELD_254

BOUND = (1 << 43) - 1
fields = st.sampled_from([FIELD_127, FIELD_191, FIELD_254])
values = st.sampled_from([-BOUND, -1, 0, 1, BOUND]) | st.integers(-BOUND, BOUND)


@given(fields, st.data())
@settings(deadline=None, max_examples=60)
def test_table_and_gram_matrix_are_exact_whatever_sizes_parts_and_order(field, data):
    n, first, second = data.draw(st.integers(1, 12)), data.draw(st.integers(0, 4)), data.draw(st.integers(0, 4))
    ids = data.draw(st.sampled_from([(0, 1), (1, 2), (0, 2)]))
    flat = data.draw(st.lists(values, min_size=n * (first + second), max_size=n * (first + second)))
    table = np.array(flat, np.int64).reshape(n, first + second)
    tables = {ids[0]: table[:, :first], ids[1]: table[:, first:]}
    folds = data.draw(st.integers(1, 5))
    played = Study(tables, field, part_bytes=data.draw(st.integers(1, 3000)), folds=folds)
    results = played.play(lambda links: data.draw(st.integers(0, links - 1)))
    shares = {party: field.to_ints(result.gram) for party, result in results.items()}
    assert (interpolate(field, shares) == played.fold_grams).all()
    for pair in pairs_of_parties():
        assert (interpolate(field, {party: played.shares(party) for party in pair}) == played.table).all()
    assert not any(array.any() for arrays in played.inputs.values() for array in arrays)
