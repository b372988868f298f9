"""Hostile templates: none reaches Python, none works without end."""

import pytest

from seqio_tasks.prompts import Template, Unprompted

GROWING = "{%% set n = namespace(x=%s) %%}{%% for i in range(60) %%}%s{%% endfor %%}{{ n.x }}"
REFUSED = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__class__']['__mro__'] }}",
    "{{ ''|attr('__class__') }}",
    "{{ cycler.__init__.__globals__.os.popen('true').read() }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ lipsum.__globals__['os'].popen('true').read() }}",
    "{{ self.__init__.__globals__ }}",
    "{{ zip.__class__.__base__.__subclasses__() }}",
    "{{ choice.__globals__.x }}",
    "{{ '{0.__class__.__init__.__globals__}'.format_map({'0': text}) }}",
    "{{ [text]|map('attr','__class__')|list }}",
    "{{ [text]|sort(attribute='__class__.__name__') }}",
    "{% include 'x' %}",
    "{% import 'os' as os %}",
    "{% from 'x' import y %}",
    "{% extends 'x' %}",
    "{% block x %}{% endblock %}",
    "{% macro a() %}{{ a() }}{{ a() }}{% endmacro %}{{ a() }}",
    "{% for x in [1] recursive %}{{ loop([1,2]) }}{% endfor %}",
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% for a in range(999999999) %}{% endfor %}",
    "{{ 'a' * 10**10 }}",
    "{{ [1] * 10**10 }}",
    "{{ 10 ** 10 ** 10 }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (1000000000, 1) }}",
    "{{ '%(a)1000000000d'|format(a=1) }}",
    "{{ 'a'.ljust(10**10) }}",
    "{{ 'a'|center(10**10) }}",
    "{{ 'a'|indent(10**10) }}",
    "{{ '{:1000000000}'.format(1) }}",
    GROWING % ("'aaaaaaaaaa'", "{% set n.x = n.x ~ n.x %}"),
    GROWING % ("'aaaaaaaaaa'", "{% set n.x = n.x + n.x %}"),
    GROWING % ("'aaaaaaaaaa'", "{% set n.x = n.x.replace('a', 'aa') %}"),
    GROWING % ("'aaaaaaaaaa'", "{% set n.x = n.x|replace('a', 'aa') %}"),
    GROWING % ("'aaaaaaaaaa'", "{% set n.x = [n.x, n.x]|join %}"),
    GROWING % ("'aaaaaaaaaa'", "{% set n.x = ''.join([n.x, n.x]) %}"),
    GROWING % ("['a']", "{% set n.x = [n.x, n.x] %}"),
    GROWING % ("['a']", "{% set n.x = n.x + n.x %}"),
    GROWING % ("['a']", "{{ n.x.extend(n.x) }}"),
    GROWING % ("2", "{% set n.x = n.x * n.x %}"),
    "{% set l = [] %}{% for a in range(99999) %}{{ l.append(range(99999)|list) }}{% endfor %}",
]


@pytest.mark.parametrize("jinja", REFUSED)
def test_a_hostile_template_is_refused(jinja):
    template = Template("hostile", jinja + " ||| y")
    with pytest.raises((Unprompted, ValueError)) as error:
        template.check()
        template.parts({"text": "x"})
    assert "MemoryError" not in str(error.value)


@pytest.mark.parametrize(
    "jinja", ["{{ (1).__class__ }}", "{{ range.__init__ }}", "{{ dict.__base__ }}",
              "{{ text.format.__globals__ }}", "{{ [].append.__self__.__class__ }}"]
)  # fmt: skip
def test_what_python_hides_prints_nothing(jinja):
    assert Template("t", jinja + "|||y").parts({"text": "x"}) == ["", "y"]


def test_hostile_answer_choices_are_refused_too():
    template = Template("t", "a ||| b", "{{ ''.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(Unprompted, match="unsafe"):
        template.choices({})


def test_what_is_compiled_ahead_is_fenced_too():
    # Jinja computes constants when it compiles; nothing of this may run then.
    with pytest.raises((Unprompted, ValueError)):
        template = Template("t", "{{ ('a' * 99999999)|length }} ||| y")
        template.check()
        template.parts({})


def test_honest_work_is_let_through():
    words = [f"w{i}" for i in range(5000)]
    jinja = "{% for w in words %}{% if w not in ['w1'] %}{{ w }} {% endif %}{% endfor %} ||| y"
    assert len(Template("t", jinja).pair({"words": words})[0].split()) == 4999
