"""Every option of a build has a flag and is documented."""

import argparse
import dataclasses

from mt0_tpu.building import build, build_flags
from mt0_tpu.building.build_config import BuildConfig


def parser():
    made = argparse.ArgumentParser()
    build_flags.add_flags(made)
    return made


def test_no_option_is_without_documentation_or_flag():
    told = {action.dest: action.help for action in parser()._actions}
    for field in dataclasses.fields(BuildConfig):
        assert len(told[field.name]) > 15
    assert "(100000)" in told["max_examples"]
    assert "--splits published" in parser().format_help() or "published" in told["splits"]


def test_flags_become_options(monkeypatch):
    built = []
    monkeypatch.setattr(build, "build", built.append)
    build_flags.run(
        parser().parse_args(
            ["--held_out", "--no_skip_prompts", "--data", "a", "--data", "b", "--seed", "3"]
        )
    )
    assert built == [BuildConfig(held_out=True, skip_prompts=False, data=("a", "b"), seed=3)]
