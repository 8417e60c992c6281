"""A failure's answer is small, clean and says what is wrong."""

import json

from hypothesis import given
from hypothesis import strategies as st

from shared import errors, problem


@given(st.text(max_size=5000))
def test_L06_whatever_the_error_says_the_body_fits_in_what_a_kafkasource_keeps(detail: str) -> None:
    body = bytes(problem.response(errors.Refused(detail)).body)
    assert len(body) <= 1024
    assert json.loads(body)["status"] == 422


@given(st.text())
def test_a_bounded_text_is_one_printable_line(text: str) -> None:
    bounded = problem.bounded(text, 100)
    assert bounded.isprintable()
    assert len(json.dumps(bounded)) <= 100


def test_a_text_that_fits_is_left_as_it_is() -> None:
    assert problem.bounded("amount: must be ≥ 0") == "amount: must be ≥ 0"


def test_a_wait_is_said_in_whole_seconds_and_never_none() -> None:
    assert problem.response(errors.Busy(retry_after_s=0.2)).headers["retry-after"] == "1"
    assert problem.response(errors.Busy(retry_after_s=1.2)).headers["retry-after"] == "2"


@given(st.text(max_size=1000), st.text(max_size=1000))
def test_with_a_place_of_any_kind_it_fits_too(detail: str, place: str) -> None:
    body = bytes(problem.response(errors.Bug(detail, place=place)).body)
    assert len(body) <= 1024
    assert len(json.dumps(json.loads(body).get("place", ""))) <= 130
