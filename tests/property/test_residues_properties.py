"""Properties of the arithmetic on limbs, for any limbs and any sequence of operations."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from limbs import BOUNDS, agrees, value

from pipeline.field import FIELD_127, FIELD_191, FIELD_254, PrimeField
from pipeline.residues import LIMIT, Residues, element_bytes, limbs_of

fields = st.sampled_from([FIELD_127, FIELD_191, FIELD_254])
bounds = st.sampled_from(BOUNDS) | st.integers(1, LIMIT)


@st.composite
def arrays(draw: st.DrawFn, field: PrimeField, *shape: int) -> Residues:
    """Numbers with limbs of any size and sign, often as large as they may be."""
    bound = draw(bounds)
    limb = st.sampled_from([-bound, bound, 0, bound - 1]) | st.integers(-bound, bound)
    count = limbs_of(field) * int(np.prod(shape))
    limbs = draw(st.lists(limb, min_size=count, max_size=count))
    return Residues(field, np.array(limbs, np.int64).reshape(limbs_of(field), *shape), bound)


@settings(max_examples=150, deadline=None)
@given(fields, st.data())
def test_what_is_sent_follows_from_the_number_alone(field: PrimeField, data: Any) -> None:
    x = data.draw(arrays(field, 2))
    expected = [int(n) for n in value(x)]
    assert x.integers().tolist() == expected
    sent = x.to_bytes()
    assert sent == b"".join(n.to_bytes(element_bytes(field), "little") for n in expected)
    assert x.carried().to_bytes() == sent and Residues.of_integers(field, expected).to_bytes() == sent
    assert Residues.received(field, sent, (2,)).to_bytes() == sent


@settings(max_examples=150, deadline=None)
@given(fields, st.data())
def test_ring_operations_are_those_of_the_integers(field: PrimeField, data: Any) -> None:
    a, b = data.draw(arrays(field, 3)), data.draw(arrays(field, 3))
    x, y = value(a), value(b)
    assert agrees(a + b, x + y) and agrees(a - b, x - y) and agrees(a * b, x * y)
    assert agrees(a.reshape(3, 1) * b, x.reshape(3, 1) * y)
    assert agrees(a.reshape(1, 3) @ b.reshape(3, 1), [[(x * y).sum()]])
    assert agrees(a.reshape(3, 1) @ b.reshape(1, 3), x.reshape(3, 1) * y)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(-(1 << 260), 1 << 260)),
        st.tuples(st.just("from"), st.integers(-(1 << 260), 1 << 260)),
        st.tuples(st.just("times"), st.integers(-(1 << 31), 1 << 31) | st.integers(-(1 << 260), 1 << 260)),
        st.tuples(st.just("shift"), st.integers(0, 300)),
        st.tuples(st.sampled_from(["square", "double", "negate", "carry", "sum", "first"]), st.just(0)),
    ),
    max_size=12,
)


def apply(operation: str, constant: int, x: Any, first: Any) -> Any:
    """One step, on `Residues` and on Python's integers alike."""
    match operation:
        case "add":
            return x + constant
        case "from":
            return constant - x
        case "times":
            return x * constant
        case "shift":
            return x << constant
        case "square":
            return x * x
        case "double":
            return x + x
        case "negate":
            return -x
        case "sum":
            return x + x.sum()
        case "first":
            return x - first * 7
        case _:
            return x.carried() if isinstance(x, Residues) else x


@settings(max_examples=150, deadline=None)
@given(fields, st.data(), steps)
def test_any_sequence_of_operations_is_that_on_integers(
    field: PrimeField, data: Any, steps: list[tuple[str, int]]
) -> None:
    x = first = data.draw(arrays(field, 2))
    n = expected = value(x)
    for operation, constant in steps:
        x, n = apply(operation, constant, x, first), apply(operation, constant, n, expected) % field.p
        assert np.array_equal(value(x), n)
    assert agrees(x, n)


@settings(max_examples=40, deadline=None)
@given(fields, st.data(), st.integers(1, 4), st.sampled_from([1, 3, 127, 128, 200]), st.integers(1, 4))
def test_matrix_products_are_exact_for_any_inner_size(
    field: PrimeField, data: Any, rows: int, inner: int, columns: int
) -> None:
    a = data.draw(arrays(field, 1, 1)).broadcast(rows, inner)
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    b = Residues.of_bytes(field, rng.integers(0, 256, (inner, columns, 3 * limbs_of(field)), np.uint8))
    b = b - data.draw(arrays(field, 1))
    assert agrees(a @ b, value(a).dot(value(b)))
