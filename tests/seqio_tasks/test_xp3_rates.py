import types

import pytest
import seqio

from seqio_tasks import xp3_rates, xp3_tables, xp3_tasks
from seqio_tasks.xp3_plan import TaskPlan


def rates_of(mixture):
    found = seqio.MixtureRegistry.get(mixture)
    return {task.name: found.get_rate(task) for task in found.tasks}


def plan(name, language="sw", num_bytes=None, split="train"):
    return TaskPlan(name, language, language, {split: ("f",)}, None, num_bytes, {})


def collection(name="xp3mt"):
    return xp3_tables.collections()[name]


def cached(name, examples, splits=("train", "validation")):
    """What SeqIO lets a rate see of a cached task."""
    return types.SimpleNamespace(
        name=name, splits=splits, cache_dir="/there",
        get_cached_stats=lambda split: {"examples": examples[split]},
    )  # fmt: skip


def test_xp3_by_published_rows(family):
    xp3_tasks.ensure("xp3")
    rates = rates_of("xp3")
    assert rates["xp3_sw"] == 1_114_455 and rates["xp3_en"] == 31_495_184
    assert sum(rates.values()) == 78_883_588
    capped = rates_of("xp3_capped")
    assert capped["xp3_en"] == 524_288 and capped["xp3_tw"] == 265_071
    warm = rates_of("xp3_temperature")
    assert warm["xp3_en"] == pytest.approx(2_097_152**0.5)
    assert warm["xp3_tw"] == pytest.approx(265_071**0.5)
    assert set(rates_of("xp3_equal").values()) == {1.0}


def test_bloomz_shares_have_code_at_1_3(family):
    xp3_tasks.ensure("xp3")
    rates = rates_of("xp3_bloomz")
    assert rates["xp3_en"] == 0.3924620202 and rates["xp3_tw"] == 0.0011195053
    bytes_of_code = 4_330_752 / 94_941_936  # kB, as the card has them
    assert rates["xp3_code"] == pytest.approx(1.3 * bytes_of_code, rel=1e-4)
    assert sum(rates.values()) == pytest.approx(1.01368, abs=1e-5)


def test_examples_are_counted_where_they_are_cached():
    by_size = xp3_rates.BySize(maximum=500, temperature=2.0)
    assert by_size(cached("xp3_sw", {"train": 400})) == 20.0
    assert by_size(cached("xp3_sw", {"train": 900})) == pytest.approx(500**0.5)
    # A task of a validation split alone.
    assert xp3_rates.BySize()(cached("x", {"validation": 7}, ("validation",))) == 7


def test_as_seqio_computes_it():
    task = cached("xp3_sw", {"train": 900})
    for maximum, temperature in ((None, 1.0), (500, 1.0), (500, 3.0), (None, 2.0)):
        assert xp3_rates.BySize(maximum, temperature)(task) == pytest.approx(
            seqio.mixing_rate_num_examples(task, maximum=maximum, temperature=temperature)
        )


def test_an_estimate_stands_in_until_then(monkeypatch):
    monkeypatch.setattr(xp3_rates, "_estimates", {})
    xp3_rates.estimate(plan("a", num_bytes=120_356), collection())
    task = types.SimpleNamespace(name="a", cache_dir=None, splits=("train",))
    assert xp3_rates.BySize()(task) == pytest.approx(100, rel=1e-3)
    task.name, task.num_input_examples = "never_planned", lambda split: 12
    assert xp3_rates.BySize()(task) == 12


def test_bloomz_in_a_language_goes_by_bytes():
    plans = [plan("a", "sw", 300), plan("b", "sw", 100), plan("c", "code", 5)]
    held = plan("d", "sw", 40, "validation")
    rates = xp3_rates.rates("bloomz", [*plans, held], collection())
    sw = 0.0059077793
    assert rates == pytest.approx({"a": sw * 0.75, "b": sw / 4, "c": 0.0592991658, "d": sw / 10})
    with pytest.raises(ValueError, match="no weight for language 'yor_Latn'"):
        xp3_rates.rates("bloomz", [plan("a", "yor_Latn", 1)], collection("xp3x"))


def test_a_table(tmp_path):
    table = tmp_path / "rates.tsv"
    table.write_text("# mine\nxp3mt_sw_a\t2\n\nxp3mt_yo\t0.5\n")
    plans = [
        plan("xp3mt_sw_a", "sw", 10),
        plan("xp3mt_yo_b", "yo", 30),
        plan("xp3mt_yo_c", "yo", 10),
    ]
    rates = xp3_rates.rates(table, plans, collection())
    assert rates == {"xp3mt_sw_a": 2.0, "xp3mt_yo_b": 0.375, "xp3mt_yo_c": 0.125}
    more = [*plans, plan("xp3mt_zu_d", "zu", 1)]
    with pytest.raises(ValueError, match="no rate for 'xp3mt_zu_d'.*'xp3mt_zu'.*missing='zero'"):
        xp3_rates.rates(str(table), more, collection())
    assert xp3_rates.rates(str(table), more, collection(), missing="zero") == rates
    assert xp3_rates.rates({"xp3mt_yo": 1}, plans[1:2], collection()) == {"xp3mt_yo_b": 1.0}


@pytest.mark.parametrize(
    "text, said",
    [
        ("xp3mt_sv\t1\n", "no task or language 'xp3mt_sv'. Did you mean 'xp3mt_sw'"),
        ("xp3mt_sw\n", "line 1: 'xp3mt_sw' is not name<TAB>rate"),
        ("xp3mt_sw\tmuch\n", "line 1: 'much' is no number"),
        ("xp3mt_sw\t1\nxp3mt_sw\t2\n", "line 2: 'xp3mt_sw' has a rate already"),
        ("xp3mt_sw\t-1\n", "rate -1.0; write a number from 0 on"),
        ("xp3mt_sw\tnan\n", "rate nan"),
        ("xp3mt_sw\t0\n", "no task of the mixture a rate above 0"),
    ],
)
def test_tables_that_are_wrong(tmp_path, text, said):
    (tmp_path / "r.tsv").write_text(text)
    with pytest.raises(ValueError, match=said):
        xp3_rates.rates(tmp_path / "r.tsv", [plan("xp3mt_sw_a")], collection())


def test_options_that_are_wrong(tmp_path):
    def refused(said, *arguments, **options):
        with pytest.raises(ValueError, match=said):
            xp3_rates.rates(*arguments, **options)

    plans = [plan("xp3mt_sw_a")]
    refused("Did you mean 'capped'", "caped", plans, collection())
    refused("no table of rates", tmp_path / "none.tsv", plans, collection())
    refused("takes no maximum", "size", plans, collection(), maximum=5)
    refused("takes no temperature", "capped", plans, collection(), temperature=5)
    refused("temperature is 0", "temperature", plans, collection(), temperature=0)
    refused("missing is 'zer'", {"xp3mt_sw": 1}, plans, collection(), missing="zer")


def test_a_users_function_and_number(xp3mt_folder):
    xp3_tasks.add_mixture("f", "xp3mt", languages=["yo"], rates=lambda task: 4.0)
    xp3_tasks.add_mixture("n", "xp3mt", languages=["yo"], rates=2)
    assert list(rates_of("f").values()) == [4.0, 4.0]
    assert list(rates_of("n").values()) == [2.0, 2.0]
