"""What a cached mixture depends on besides code: data files and variables its sources name."""

import types

from mt0_tpu.data import definition_files
from seqio_tasks.line_files import LineFile


def task(**source):
    return types.SimpleNamespace(splits=("validation",), source=types.SimpleNamespace(**source))


def test_a_source_may_name_files_that_it_is_not_the_lines_of():
    def file(name):
        return lambda split: [LineFile(name, 3, (7,), True)]

    tasks = [task(watched_files=file("a")), task(files=file("b")), task()]
    assert definition_files.data_files(tasks) == {"a": [3, 7], "b": [3, 7]}


def test_variables_that_a_source_depends_on(monkeypatch):
    monkeypatch.setenv("MT0_VOCABULARY", "one.model")
    monkeypatch.delenv("MT0_EVAL_DIR", raising=False)
    tasks = [task(environment=("MT0_VOCABULARY", "MT0_EVAL_DIR")), task()]
    kept = definition_files.environment(tasks)
    assert kept == {"MT0_EVAL_DIR": "", "MT0_VOCABULARY": "one.model"}
    assert definition_files.changed_environment(kept) == []
    monkeypatch.setenv("MT0_VOCABULARY", "another.model")
    assert definition_files.changed_environment(kept) == ["$MT0_VOCABULARY"]
    # A cache serves where nothing is set.
    monkeypatch.delenv("MT0_VOCABULARY")
    assert definition_files.changed_environment(kept) == []
    # One that was not set then decides now.
    monkeypatch.setenv("MT0_EVAL_DIR", "rows")
    assert definition_files.changed_environment(kept) == ["$MT0_EVAL_DIR"]


def test_rooms_that_only_score_define_no_example():
    """A better metric must not ask for a cache to be looked at again."""
    from seqio_tasks import generation_metrics, sources

    source = types.new_class("Source", exec_body=lambda room: room.update(__module__=__name__))()
    files = definition_files.of_tasks(
        None, [types.SimpleNamespace(source=source, preprocessors=())], None
    )
    assert sources.__name__ in files and generation_metrics.__name__ not in files
    assert definition_files.changed({sources.__name__: "0"}, None) == [sources.__name__]
    assert definition_files.changed({generation_metrics.__name__: "0"}, None) == []
