"""pass@k from samples, and programs judged by their tests."""

import itertools

import pytest

from seqio_tasks import code_execution, code_metrics, metrics
from seqio_tasks.code_metrics import estimate, judged, pass_at_k

PROBLEM = {
    "task_id": "Test/0",
    "prompt": 'def double(x):\n    """Twice x."""\n',
    "test": "def check(candidate):\n    assert candidate(4) == 8\n",
    "entry_point": "double",
}
OTHER = {**PROBLEM, "task_id": "Test/1", "test": PROBLEM["test"].replace("8", "9")}
RIGHT, WRONG = "    return 2 * x\n", "    return x\n"
can_isolate = pytest.mark.skipif(
    code_execution.missing_walls() != (), reason="this machine cannot isolate programs"
)


@pytest.mark.parametrize("n, c", [(1, 0), (1, 1), (5, 2), (6, 1), (7, 7)])
def test_the_estimate_is_the_share_of_draws_with_a_hit(n, c):
    samples = [True] * c + [False] * (n - c)
    for k in range(1, n + 1):
        draws = list(itertools.combinations(samples, k))
        assert estimate(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws))


@pytest.mark.parametrize("n, c, k", [(3, 1, 4), (3, 4, 1), (3, -1, 1), (3, 1, 0)])
def test_an_estimate_that_is_none(n, c, k):
    with pytest.raises(ValueError, match="has no estimate"):
        estimate(n, c, k)


@can_isolate
def test_pass_at_k():
    samples = [[RIGHT, WRONG, WRONG, WRONG], [WRONG, "    return 9\n", RIGHT, "    return 9"]]
    with code_execution.allowed():
        found = pass_at_k([PROBLEM, OTHER], samples, ks=(1, 3, 10))
        outcomes = judged([PROBLEM, OTHER], samples)
    assert found == {
        "pass@1": pytest.approx((1 / 4 + 1 / 2) / 2),
        "pass@3": pytest.approx((3 / 4 + 1) / 2),
    }
    assert [one.passed for one in outcomes["Test/1"]] == [False, True, False, True]
    assert outcomes["Test/0"][1].reason == "AssertionError"
    assert metrics.pass_at_k is pass_at_k


@can_isolate
def test_samples_may_come_one_by_one():
    with code_execution.allowed():
        found = pass_at_k([PROBLEM, OTHER, PROBLEM, OTHER], [RIGHT, WRONG, WRONG, WRONG], ks=(1, 2))
        assert found == {"pass@1": 0.25, "pass@2": 0.5}
        with pytest.raises(ValueError, match="pass@10 needs 10 samples .* has 2; raise Decode"):
            pass_at_k([PROBLEM, PROBLEM], [RIGHT, WRONG], ks=(10, 100))


def test_bad_input(monkeypatch):
    monkeypatch.delenv("MT0_EXECUTE_CODE", raising=False)
    code_execution.allow(False)
    with pytest.raises(ValueError, match="code that a model wrote, which is off"):
        pass_at_k([PROBLEM], [RIGHT])
    # From here on nothing is run: it is all refused before.
    monkeypatch.setattr(code_metrics.code_execution, "require", lambda: True)
    monkeypatch.setattr(code_metrics.code_execution, "run_programs", None)
    with pytest.raises(ValueError, match="1 targets but 2 results"):
        pass_at_k([PROBLEM], [RIGHT, WRONG])
    with pytest.raises(ValueError, match="nothing to run"):
        pass_at_k([], [])
    with pytest.raises(ValueError, match="Test/0 has no completion"):
        pass_at_k([PROBLEM], [[]])
