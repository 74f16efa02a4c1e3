from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from atlas.core.entities import Quota, Workspace
from atlas.core.quota import LeakyBucket, effective_quota

DEFAULT = Quota(1_200, 200)

quotas = st.builds(Quota, st.integers(1, 5_000), st.integers(1, 300))
#: Gaps between requests in nanoseconds: bursts, and around what one request takes to drain.
gaps_ns = st.one_of(st.just(0), st.integers(0, 10**8), st.integers(0, 10**11))


def _granted(bucket: LeakyBucket, now_s: float, count: int) -> int:
    return sum(bucket.take(now_s).granted for _ in range(count))


def test_the_burst_then_the_rate() -> None:
    bucket = LeakyBucket(DEFAULT, 0)
    assert _granted(bucket, 0, 1_000) == 200
    assert _granted(bucket, 0.0499, 10) == 0
    assert _granted(bucket, 0.05, 10) == 1
    assert _granted(bucket, 1.05, 1_000) == 20
    assert _granted(bucket, 3_600, 1_000) == 200


def test_remaining_counts_down() -> None:
    bucket = LeakyBucket(Quota(60, 3), 0)
    assert [bucket.take(0).remaining for _ in range(3)] == [2, 1, 0]
    assert bucket.remaining(0) == 0
    assert bucket.remaining(0.999) == 0
    assert bucket.remaining(1) == 1
    assert bucket.remaining(100) == 3


@given(quotas, st.lists(gaps_ns, min_size=1, max_size=60))
def test_in_any_window_accepted_is_at_most_burst_plus_rate_times_time(quota: Quota, gaps: list[int]) -> None:
    bucket = LeakyBucket(quota, 0)
    now_ns = 0
    accepted: list[int] = []
    for gap_ns in gaps:
        now_ns += gap_ns
        now_s = now_ns / 1e9
        accepted += [int(now_s * 1e9)] * _granted(bucket, now_s, 30)
    for first, start_ns in enumerate(accepted):
        for last in range(first, len(accepted)):
            window_ns = accepted[last] - start_ns
            bound = quota.burst + Fraction(quota.requests_per_minute * window_ns, 60 * 10**9)
            assert last - first + 1 <= bound


@given(quotas, st.lists(gaps_ns, max_size=20))
def test_a_refusal_costs_nothing_and_says_when_to_come_back(quota: Quota, gaps: list[int]) -> None:
    bucket = LeakyBucket(quota, 0)
    now_ns = 0
    for gap_ns in gaps:
        now_ns += gap_ns
        bucket.take(now_ns / 1e9)
    now_s = now_ns / 1e9
    _granted(bucket, now_s, quota.burst)
    refusals = {bucket.take(now_s) for _ in range(5)}
    assert len(refusals) == 1
    refusal = refusals.pop()
    assert refusal == (False, 0, refusal.retry_after_ms)
    assert refusal.retry_after_ms >= 1
    # A float of a large time cannot hold every nanosecond: allow one microsecond.
    assert bucket.take(now_s + refusal.retry_after_ms / 1000 + 1e-6).granted
    assert not bucket.take(now_s).granted


def test_a_lower_quota_holds_at_once_and_nothing_is_refunded() -> None:
    bucket = LeakyBucket(DEFAULT, 0)
    _granted(bucket, 0, 50)
    bucket.change(Quota(60, 10))
    assert not bucket.take(0).granted
    bucket.change(DEFAULT)
    assert _granted(bucket, 0, 1_000) == 150


def test_a_higher_quota_holds_at_once_but_not_for_the_time_before() -> None:
    bucket = LeakyBucket(Quota(1, 1), 0)
    assert bucket.take(0).granted
    bucket.change(Quota(60_000, 1))
    assert not bucket.take(30).granted  # half a minute at one a minute
    assert bucket.take(30.001).granted


@given(st.lists(st.tuples(gaps_ns, quotas), min_size=1, max_size=30))
def test_changing_the_quota_to_and_fro_never_gains_anything(steps: list[tuple[int, Quota]]) -> None:
    """Accepted in all is within what the most generous of the quotas would have allowed throughout."""
    best = Quota(max(q.requests_per_minute for _, q in steps), max(q.burst for _, q in steps))
    changing, steady = LeakyBucket(steps[0][1], 0), LeakyBucket(best, 0)
    now_ns = 0
    for gap_ns, quota in steps:
        now_ns += gap_ns
        changing.change(quota)
        granted = _granted(changing, now_ns / 1e9, 400)
        assert all(steady.take(now_ns / 1e9).granted for _ in range(granted))


def test_time_that_runs_backwards_drains_nothing() -> None:
    bucket = LeakyBucket(Quota(60, 1), 100)
    assert bucket.take(100).granted
    assert not bucket.take(0).granted
    assert not bucket.take(100.5).granted
    assert bucket.take(101).granted


def test_an_empty_bucket_is_as_good_as_a_new_one() -> None:
    bucket = LeakyBucket(Quota(60, 5), 0)
    assert bucket.is_empty(0)
    bucket.take(0)
    assert not bucket.is_empty(0.5)
    assert bucket.is_empty(1)


def test_a_workspace_without_a_quota_of_its_own_has_the_default() -> None:
    own = Quota(60, 5)
    workspace = Workspace(id="ws_A", name="Acme", quotas={"test": own}, created_at_ms=0)
    assert effective_quota(workspace, "live", DEFAULT) is DEFAULT
    assert effective_quota(workspace, "test", DEFAULT) is own
