"""Templates: what promptsource's rules give, on small templates of our own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqio_tasks.prompts import Template, Unprompted, read_templates

YAML = """
dataset: pets
templates:
  id-b: !Template
    answer_choices: cat ||| dog
    id: id-b
    jinja: |-
      Which pet says {{ sound }}? ||| {{ answer_choices[label] }}
    metadata: !TemplateMetadata
      choices_in_prompt: false
      metrics: [Accuracy]
      languages: [en]
      original_task: true
    name: which
    reference: someone
  id-a: !Template
    answer_choices: null
    id: id-a
    jinja: Say {{ sound }} ||| ok
    metadata: !TemplateMetadata {original_task: null}
    name: a say
    reference: ''
"""


def pair(jinja, row, choices=None, **options):
    return Template("t", jinja, choices).pair(row, **options)


def dropped(jinja, row, choices=None, **options):
    with pytest.raises(Unprompted) as error:
        pair(jinja, row, choices, **options)
    return error.value.reason


def test_a_file_gives_its_templates_by_name_and_sorted():
    templates = read_templates(YAML, "here")
    assert list(templates) == ["a say", "which"]
    which = templates["which"]
    assert (which.id, which.metrics, which.languages) == ("id-b", ("Accuracy",), ("en",))
    assert which.original_task is True and which.choices_in_prompt is False
    assert which.pair({"sound": "miaow", "label": 0}) == ("Which pet says miaow?", "cat")
    assert which.fixed_choices() == ["cat", "dog"]
    assert templates["a say"].fixed_choices() is None


def test_of_two_templates_with_one_name_the_later_counts():
    twice = YAML.replace("name: a say", "name: which").replace("Say {{", "Speak {{")
    assert read_templates(twice, "here")["which"].jinja.startswith("Speak")


@pytest.mark.parametrize(
    "text",
    [
        "templates: {a: !!python/object/apply:os.system ['true']}",
        "templates: {a: !Template {name: x, jinja: !!python/name:os.system }}",
        "templates: !!python/object:seqio_tasks.prompts.Template {}",
        "templates: {a: !Other {name: x, jinja: y}}",
        "templates: [",
        "no mapping",
        "dataset: x",
        "templates: {a: {name: 3, jinja: x}}",
        "templates: {a: {name: x, jinja: y, answer_choices: [a, b]}}",
        "templates: {a: just text}",
    ],
)
def test_what_is_no_file_of_templates_is_refused_with_its_place(text):
    with pytest.raises(ValueError, match="the/place"):
        read_templates(text, "the/place")


def test_input_and_target_are_stripped():
    assert pair("  {{ a }} \n|||\n {{ b }}  ", {"a": " x ", "b": "y\n"}) == ("x", "y")


def test_code_keeps_what_stands_around_the_separator():
    row = {"a": " x", "b": "y "}
    assert pair("{{ a }}\n|||    {{ b }}", row, strip=False) == ("x\n", "    y")
    # A blank on both sides is one blank.
    assert pair("{{ a }} ||| {{ b }}", row, strip=False) == ("x", " y")
    assert pair("{{ a }} |||{{ b }}", row, strip=False) == ("x ", "y")


@pytest.mark.parametrize(
    "jinja, reason",
    [
        ("{% if false %}x ||| y{% endif %}", "blank"),
        ("only an input", "no_target"),
        ("a ||| b ||| c", "several_targets"),
        (" ||| b", "empty_input"),
        ("a ||| ", "empty_target"),
        ("{{ missing.field }} ||| b", "render_error"),
        ("{{ [1][5:2].x.y }} ||| b", "render_error"),
    ],
)
def test_a_row_without_an_example_says_why(jinja, reason):
    assert dropped(jinja, {}) == reason


def test_answer_choices_are_jinja_stripped_and_indexable():
    choices = "{{ a }} |||  {{ b }}\n||| neither"
    row = {"a": "one", "b": "two", "label": 1}
    template = Template("t", "{{ answer_choices | join(', ') }}? ||| {{ answer_choices[label] }}",
                        choices)  # fmt: skip
    assert template.choices(row) == ["one", "two", "neither"]
    assert template.pair(row) == ("one, two, neither?", "two")
    assert template.fixed_choices() is None


def test_a_field_called_answer_choices_is_refused():
    assert dropped("a ||| b", {"answer_choices": 1}) == "render_error"


def test_separators_in_the_data_are_letters_like_others():
    assert pair("{{ a }} ||| {{ b }}", {"a": "1|||2", "b": "|||"}) == ("1|||2", "|||")
    row = {"list": ["x|||y"], "dict": {"k": ["|||"]}, "label": 0}
    assert pair("{{ list[0] }} ||| {{ dict.k[0] }}", row) == ("x|||y", "|||")
    template = Template("t", "{{ a }} ||| {{ answer_choices[0] }}", "{{ list[0] }} ||| no")
    assert template.pair({"a": "q"} | row) == ("q", "x|||y")
    assert template.choices(row) == ["x|||y", "no"]


def test_promptsource_protects_plain_fields_alone():
    published = {"top_level_bars_only": True}
    assert pair("{{ a }} ||| {{ a }}", {"a": "1|||2"}, **published) == ("1|||2", "1|||2")
    assert dropped("{{ l[0] }} ||| b", {"l": ["x|||y"]}, **published) == "several_targets"


@given(st.text(), st.text(), st.lists(st.text(), min_size=1, max_size=3))
def test_any_text_comes_through_whole(first, second, items):
    row = {"a": first, "b": second, "items": items}
    parts = Template("t", "<{{ a }}{{ items[0] }}>|||<{{ b }}>").parts(row)
    assert parts == [f"<{first}{items[0]}>", f"<{second}>"]


def test_hyphens_in_names_become_underscores():
    assert pair("{{ a_b }} ||| {{ c }}", {"a-b": "x", "c": "y"}) == ("x", "y")


def test_every_printed_variable_is_cut_at_a_blank():
    text = "word " * 500
    inputs, target = pair("{{ a }} ||| {{ b }}", {"a": text, "b": "y"}, truncate_chars=2048)
    # 2048 letters less three for the dots, back to the last blank: 409 words.
    assert inputs == "word " * 408 + "word..." and target == "y"
    # Five letters over are let through.
    assert pair("{{ a }}|||y", {"a": "x" * 25}, truncate_chars=20)[0] == "x" * 25
    assert pair("{{ a }}|||y", {"a": "x" * 26}, truncate_chars=20)[0] == "x" * 17 + "..."


def test_of_a_printed_sum_only_the_last_part_is_cut_as_published():
    row = {"a": "x" * 30, "b": "y" * 30, "n": 3}
    assert pair("{{ a ~ b }}|||{{ n }}", row, truncate_chars=20) == (
        "x" * 30 + "y" * 17 + "...",
        "3",
    )
    assert dropped("{{ n + 1 }}|||y", row, truncate_chars=20) == "render_error"


def test_functions_that_published_prompts_use():
    row = {"xs": ["b", "a", "b"], "ys": [1, 2, 3]}
    assert pair("{{ xs | most_frequent | join }}|||y", row)[0] == "b"
    assert pair("{{ ['a','b'] | most_frequent }}|||y", row)[0] == "['a', 'b']"
    assert pair("{% for x, y in zip(xs, ys) %}{{ x }}{{ y }}{% endfor %}|||y", row)[0] == "b1a2b3"
    assert pair("{{ 'x' | highlight }}|||y", {})[0] == "<span style='color: #F08080'>x</span>"
    assert pair("{% set n = namespace(t=0) %}{% for y in ys %}{% set n.t = n.t + y %}{% endfor %}"
                "{{ n.t }}|||y", row)[0] == "6"  # fmt: skip
    assert pair("{% set l = [] %}{% for x in xs %}{{ l.append(x) or '' }}{% endfor %}{{ l | length"
                "}}|||y", row)[0] == "3"  # fmt: skip


def test_a_template_cannot_change_the_row():
    row = {"xs": ["a"], "d": {"k": [1]}}
    pair("{{ xs.append('b') }}{{ d.k.append(2) }}|||y", row)
    assert row == {"xs": ["a"], "d": {"k": [1]}}


@pytest.mark.parametrize("name", ["choice", "random"])
def test_chance_follows_the_seed(name):
    template = Template("t", "{{ range(100) | list | " + name + " }}|||y")
    drawn = [template.pair({}, seed=seed)[0] for seed in range(20)]
    assert drawn == [template.pair({}, seed=seed)[0] for seed in range(20)]
    assert len(set(drawn)) > 10


def test_chance_among_constants_is_drawn_anew_for_each_row():
    template = Template("t", "{{ ['a', 'b'] | choice }}|||y")
    assert {template.pair({}, seed=seed)[0] for seed in range(30)} == {"a", "b"}


def test_a_template_that_does_not_parse_fails_its_check():
    with pytest.raises(ValueError, match="'broken'"):
        Template("broken", "{% if %} ||| x").check()
    assert dropped("{% if %} ||| x", {}) == "render_error"


def test_an_error_says_what_raised_it():
    with pytest.raises(Unprompted) as error:
        pair("{{ a[5] / 0 }} ||| x", {"a": [1] * 6})
    assert isinstance(error.value.cause, ZeroDivisionError)
