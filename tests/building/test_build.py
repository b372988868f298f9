"""Building collections of small raw data with small prompts, published and mended."""

import json
import subprocess
import sys

import pytest

from mt0_tpu.building.build import build
from mt0_tpu.building.build_config import BuildConfig
from mt0_tpu.errors import UserError

HEAD = "dataset: d\ntemplates:\n"


def template(name, jinja, choices="null"):
    return (
        f"  id-{name}: !Template\n    name: {json.dumps(name)}\n    jinja: {json.dumps(jinja)}\n"
        f"    answer_choices: {choices}\n    metadata: !TemplateMetadata {{metrics: []}}\n"
    )


class Place:
    """A folder with raw data, prompts and an output; `build` runs quietly in one process."""

    def __init__(self, root):
        self.root, self.lines = root, []

    def data(self, name, rows):
        path = self.root / "raw" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in rows))

    def prompts(self, key, *templates):
        path = self.root / "prompts" / key / "templates.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(HEAD + "".join(templates))

    def build(self, **options):
        options = {
            "output_dir": str(self.root / "out"),
            "prompts_dir": str(self.root / "prompts"),
            "raw_dir": str(self.root / "raw"),
            "num_processes": 1,
        } | options
        return build(BuildConfig(**options), self.lines.append)

    def files(self, collection):
        folder = self.root / "out" / collection
        return {
            str(path.relative_to(folder)): [json.loads(line) for line in path.open()]
            for path in sorted(folder.rglob("*.jsonl"))
        }

    def inputs(self, collection):
        return {name: [row["inputs"] for row in rows]
                for name, rows in self.files(collection).items()}  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.delenv("MT0_PROMPTS_DIR", raising=False)
    place = Place(tmp_path)
    place.data(
        "imdb/train", [{"text": t, "label": i % 2} for i, t in enumerate("dd a ccc b".split())]
    )
    place.prompts("imdb", template("is it", "{{ text }} ||| {{ ['bad', 'good'][label] }}"))
    return place


def accounted(record):
    """Every row under every prompt is an example or has a reason."""
    files = [*record["files"], *record["without_examples"]]
    return all(f["rows"] == f["examples"] + sum(f["dropped"].values()) for f in files)


def test_a_prompt_file_in_the_released_layout(place):
    record = place.build(collection="xp3mt")
    name = "en/xp3_imdb_None_train_is_it.jsonl"
    assert place.files("xp3mt") == {name: place.files("xp3mt")[name]}
    assert sorted((r["inputs"], r["targets"]) for r in place.files("xp3mt")[name]) == [
        ("a", "good"), ("b", "good"), ("ccc", "bad"), ("dd", "bad")
    ]  # fmt: skip
    assert record["files"][0]["examples"] == 4 and accounted(record)
    assert json.loads((place.root / "out/xp3mt/build.json").read_text()) == json.loads(
        json.dumps(record)
    )


def test_xp3_is_merged_by_language_without_duplicates(place):
    place.prompts("imdb", template("one", "{{ text }}|||x"), template("two", "{{ text }} |||x"))
    record = place.build()
    merged = place.files("xp3")
    assert list(merged) == ["en/merged_en.jsonl"]
    assert sorted(r["inputs"] for r in merged["en/merged_en.jsonl"]) == ["a", "b", "ccc", "dd"]
    assert record["merged"]["en"]["duplicates"] == 4
    assert not (place.root / "out/xp3.build/parts").exists()


def test_xp3x_tells_where_an_example_came_from(place):
    place.data("paws-x/de/train", [{"sentence1": "x"}])
    place.prompts("paws-x/en", template("a-b", "{{ sentence1 }}|||y"))
    place.build(collection="xp3x", only=("paws-x",))
    assert place.files("xp3x") == {
        "data/deu_Latn/xp3_paws_x_de_train_a_b.jsonl": [
            {"inputs": "x", "targets": "y", "language": "deu_Latn", "split": "train",
             "template": "a-b", "dataset": "paws-x", "config": "de"}
        ]
    }  # fmt: skip


@pytest.mark.parametrize(
    "options, kept",
    [
        ({}, {"a", "b"}),
        ({"cap_order": "alphabetical"}, ["a", "b"]),
        ({"faithful": True, "splits": "train"}, ["a", "b"]),
    ],
)
def test_the_cap(place, options, kept):
    record = place.build(collection="mine", max_examples=2, **options)
    (found,) = place.inputs("mine").values()
    assert (found if isinstance(kept, list) else set(found)) == kept
    assert record["files"][0]["dropped"] == {"cap": 2}


def test_the_published_cap_is_alphabetical_and_ours_is_by_length(place):
    place.data("imdb/train", [{"text": t, "label": 0} for t in ("zz", "y", "aaaa", "bbb")])
    place.build(collection="mine", max_examples=2)
    place.build(collection="theirs", max_examples=2, faithful=True)
    assert set(*place.inputs("mine").values()) == {"y", "zz"}
    assert next(iter(place.inputs("theirs").values())) == ["aaaa", "bbb"]


def test_rows_are_drawn_before_rendering(place):
    place.data("imdb/train", [{"text": str(i), "label": 0} for i in range(100)])
    record = place.build(collection="mine", max_rows=10, max_examples=10)
    assert record["files"][0]["dropped"] == {"not_drawn": 90} and accounted(record)
    drawn = next(iter(place.inputs("mine").values()))
    assert len(drawn) == 10 and sum(map(int, drawn)) > 100


def test_african_pairs_are_kept_by_score_or_by_chance(place):
    rows = [{"translation": {"eng": f"e{i}", "swh": f"s{i}"}, "laser_score": i / 100}
            for i in range(100)]  # fmt: skip
    place.data("allenai/wmt22_african/eng-swh/train", rows)
    jinja = "{{ translation.eng }}|||{{ translation.swh }}"
    place.prompts("allenai/wmt22_african/eng-swh", template("in-eng-swh", jinja))
    only = {"only": ("allenai/*",), "max_examples": 10, "layout": "prompts"}
    place.build(**only)
    place.build(**only, collection="xp3all", faithful=True)
    name = "sw/xp3_allenai_wmt22_african_eng-swh_train_in-eng-swh.jsonl"
    assert set(place.inputs("xp3")[name]) == {"e95", "e96", "e97", "e98", "e99"}
    chance = place.inputs("xp3all")[name]
    assert len(chance) == 5 and set(chance) != set(place.inputs("xp3")[name])


def test_evaluation_splits_stay_out_unless_published(place):
    for split in ("validation", "test", "unsupervised"):
        place.data(f"imdb/{split}", [{"text": split, "label": 0}])
    record = place.build(collection="xp3mt")
    assert list(place.files("xp3mt")) == ["en/xp3_imdb_None_train_is_it.jsonl"]
    reasons = {left["what"]: left["reason"] for left in record["left_out"]}
    assert reasons["imdb test"] == reasons["imdb validation"] == "evaluation split"
    # Labels of 'unsupervised' are hidden: left out by its prompts.
    assert reasons["imdb unsupervised, 'is it'"] == "hidden labels"
    place.build(collection="xp3all", splits="published")
    assert [name.split("_")[3] for name in place.files("xp3all")] == ["test", "train", "validation"]
    place.build(collection="xp3all", splits="published", skip_prompts=False,
                output_dir=str(place.root / "out2"))  # fmt: skip
    assert len(list((place.root / "out2").rglob("*.jsonl"))) == 4 + 1  # and its records


def test_held_out_data_sets_stay_out_unless_asked_for(place):
    place.data("xcopa/sw/train", [{"premise": "p"}])
    # The release has no xcopa/en; super_glue/copa is the same.
    place.prompts("super_glue/copa", template("t", "{{ premise }}|||y"))
    record = place.build(collection="xp3all")
    assert {"what": "xcopa/sw", "reason": "held-out cluster", "detail": "sentence_completion"} in (
        record["left_out"]
    )
    place.build(collection="xp3all", held_out=True, output_dir=str(place.root / "o2"))
    assert (place.root / "o2/xp3all/sw/xp3_xcopa_sw_train_t.jsonl").is_file()


def test_who_is_not_a_member_is_left_out_of_a_released_collection_only(place):
    place.data("paws-x/de/train", [{"sentence1": "x"}])
    place.prompts("paws-x/en", template("t", "{{ sentence1 }}|||y"))
    left = {entry["what"]: entry["reason"] for entry in place.build()["left_out"]}
    assert left["paws-x/de"] == "not in the collection"
    assert left["glue/mrpc"] == "no data at hand"
    place.build(collection="mine")
    assert "de/xp3_paws-x_de_train_t.jsonl" in place.files("mine")


def test_a_copy_with_other_prompts_than_xp3_had_is_told(place):
    told = {left["what"]: left for left in place.build(collection="xp3all")["left_out"]}
    assert told["imdb"]["reason"] == "other prompts than published"
    assert told["imdb"]["detail"] == "1 prompts where xp3all has 12"
    # Thousands of missing pairs are one line.
    assert told["facebook/flores"]["detail"] == "2,070 subsets"


def test_native_prompts_come_first_where_the_copy_has_them(place):
    for subset in ("es", "fr"):
        place.data(f"paws-x/{subset}/train", [{"sentence1": "x"}])
    place.prompts("paws-x/en", template("english", "{{ sentence1 }}|||y"))
    place.prompts("paws-x/es", template("spanish_mt", "{{ sentence1 }}|||y"))
    place.build(collection="xp3mt", only=("paws-x/*",))
    assert list(place.files("xp3mt")) == [
        "es/xp3_paws-x_es_train_spanish_mt.jsonl", "fr/xp3_paws-x_fr_train_english.jsonl"
    ]  # fmt: skip
    place.build(collection="mine", only=("paws-x/*",))
    assert "es/xp3_paws-x_es_train_english.jsonl" in place.files("mine")


def test_code_keeps_the_line_break_that_xp3x_lost(place):
    place.data("great_code/train", [{"a": "x", "b": "y"}])
    place.prompts("great_code", template("t", "{{ a }}\n|||\n{{ b }}"))
    only = {"only": ("great_code",), "layout": "prompts"}
    place.build(**only)
    place.build(**only, collection="xp3x")
    place.build(**only, collection="xp3x", faithful=True, output_dir=str(place.root / "f"))
    (code,) = place.files("xp3").values()
    (ours,) = place.files("xp3x").values()
    theirs = json.loads(next((place.root / "f/xp3x").rglob("*.jsonl")).read_text())
    assert (code[0]["inputs"], code[0]["targets"]) == ("x\n", "\ny")
    assert (ours[0]["inputs"], ours[0]["targets"]) == ("x\n", "\ny")
    assert (theirs["inputs"], theirs["targets"]) == ("x", "y")


def test_every_lost_row_has_a_reason(place):
    rows = [{"text": "ok", "label": 0}, {"text": "", "label": 0}, {"text": "x", "label": 7},
            "{broken\n", {"text": "\ud800", "label": 1}, {"label": 0}]  # fmt: skip
    place.data("imdb/train", rows)
    place.prompts(
        "imdb",
        template("all", "{{ text }} ||| {{ ['bad', 'good'][label].upper() }}"),
        template("some", "{% if label == 0 %}{{ text }}|||y{% endif %}"),
        template("bars", "a|||b|||c"),
        template("none", "a"),
        template("broken", "{% if %}"),
    )
    record = place.build(collection="mine")
    by_name = {f["template"]: f for f in [*record["files"], *record["without_examples"]]}
    assert record["splits"]["imdb train"]["dropped"] == {"bad_row": 1}
    assert by_name["all"]["dropped"] == {"empty_input": 2, "render_error": 1, "bad_unicode": 1}
    assert by_name["some"]["dropped"] == {"empty_input": 2, "blank": 2}
    assert by_name["bars"]["dropped"] == {"several_targets": 5}
    assert by_name["none"]["dropped"] == {"no_target": 5}
    assert accounted(record)
    assert [left["reason"] for left in record["left_out"]] == ["template refused"]
    table = place.lines[-1]
    for word in ("imdb", "bad_row", "several_targets", "more than one |||", "template refused 1"):
        assert word in table
    assert any("line 4: not JSON" in line for line in place.lines)
    with pytest.raises(UserError, match="line 4: not JSON"):
        place.build(collection="other", bad_rows="stop")


def test_one_failing_row_lost_its_whole_prompt_when_published(place):
    place.data("imdb/train", [{"text": "a", "label": 0}, {"text": "b"}, {"text": "c", "label": 1}])
    place.prompts("imdb", template("t", "{{ text }} ||| {{ 5 - label }}"))
    ours = place.build(collection="mine", max_variable_chars=0)
    theirs = place.build(collection="theirs", faithful=True, max_variable_chars=0)
    assert ours["files"][0]["examples"] == 2
    assert theirs["files"] == [] and theirs["without_examples"][0]["dropped"] == {
        "prompt_failed": 3
    }


def test_variables_are_cut(place):
    place.data("imdb/train", [{"text": "word " * 1000, "label": 0}])
    place.build(collection="mine")
    place.build(collection="whole", max_variable_chars=0)
    assert len(next(iter(place.inputs("mine").values()))[0]) == 2047
    assert len(next(iter(place.inputs("whole").values()))[0]) == 4999


def test_two_prompts_with_one_file_name(place):
    place.prompts("imdb", template("a b", "{{ text }}|||1"), template("a_b", "{{ text }}|||2"))
    place.build(collection="mine")
    assert list(place.files("mine")) == ["en/xp3_imdb_None_train_a_b.jsonl",
                                         "en/xp3_imdb_None_train_a_b_2.jsonl"]  # fmt: skip
    record = place.build(collection="theirs", faithful=True)
    assert len(place.files("theirs")) == 1
    assert record["left_out"][-1]["reason"] == "same file name"


def test_the_same_build_again_does_nothing_and_another_is_refused(place):
    first = place.build(collection="mine")
    written = {path: path.stat().st_mtime_ns for path in (place.root / "out/mine").rglob("*")}
    assert place.build(collection="mine") == json.loads(json.dumps(first))
    assert written == {p: p.stat().st_mtime_ns for p in (place.root / "out/mine").rglob("*")}
    with pytest.raises(UserError, match=r"another build \(seed was 0, is 1\); name another"):
        place.build(collection="mine", seed=1)
    place.data("imdb/train", [{"text": "new", "label": 0}])
    with pytest.raises(UserError, match="another build"):
        place.build(collection="mine")


def test_a_build_cut_off_goes_on_with_what_is_missing(place):
    place.prompts("imdb", template("one", "{{ text }}|||1"), template("two", "{{ text }}|||2"))
    place.build(collection="mine")
    whole = place.files("mine")
    out = place.root / "out"
    (out / "mine/build.json").unlink()
    lost = out / "mine/en/xp3_imdb_None_train_two.jsonl"
    kept = out / "mine/en/xp3_imdb_None_train_one.jsonl"
    before = kept.stat().st_mtime_ns
    lost.unlink()
    with (out / "mine.build/records.jsonl").open("a") as file:
        file.write('{"file": "cut o')
    place.build(collection="mine")
    assert place.files("mine") == whole and kept.stat().st_mtime_ns == before
    assert any("1 of 2 files are made already" in line for line in place.lines)


@pytest.mark.parametrize("layout", ["prompts", "merged"])
def test_what_no_build_made_is_not_built_over(place, layout):
    stray = place.root / "out/mine/en/merged_en.jsonl"
    stray.parent.mkdir(parents=True)
    stray.write_text("{}\n")
    with pytest.raises(UserError, match="merged_en.jsonl, which no build made"):
        place.build(collection="mine", layout=layout)
    assert stray.read_text() == "{}\n"


def test_a_merge_cut_off_is_done_again(place, monkeypatch):
    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mt0_tpu.building.build.write_whole", killed)
        with pytest.raises(KeyboardInterrupt):
            place.build()
    record = place.build()
    assert any("1 of 1 files are made already" in line for line in place.lines)
    assert record["merged"]["en"]["lines"] == 4


def test_processes_do_not_change_the_result(place):
    place.data("imdb/train", [{"text": str(i), "label": i % 2} for i in range(300)])
    place.prompts("imdb", *(template(f"t{i}", "{{ text | string }}|||{{ ['a','b']|choice }}")
                            for i in range(3)))  # fmt: skip
    place.build(collection="one")
    place.build(collection="two", num_processes=2)
    assert place.files("one") == place.files("two")
    targets = {row["targets"] for rows in place.files("one").values() for row in rows}
    assert targets == {"a", "b"}


def test_nothing_of_tensorflow_is_loaded(place):
    code = f"""
import sys
from mt0_tpu import cli
assert cli.main(["tasks", "build", "--collection=mine", "--raw_dir={place.root}/raw",
    "--output_dir={place.root}/out", "--prompts_dir={place.root}/prompts"]) == 0
loaded = {{"tensorflow", "seqio", "jax", "datasets"}} & set(sys.modules)
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert len(place.files("mine")) == 1


def test_a_list_names_prompts_and_language_of_ones_own_data(place):
    (place.root / "mine.toml").write_text("""
[[data]]
dataset = "letters"
subset = ["sw", "yo"]
split = "train"
files = "{subset}.tsv"
columns = ["text", "label:int"]
prompts = "imdb"
language = "{subset}"
""")
    for subset in ("sw", "yo"):
        (place.root / f"{subset}.tsv").write_text(f"{subset}\t1\n")
    place.build(collection="mine", raw_dir=None, data=(str(place.root / "mine.toml"),))
    assert place.inputs("mine") == {
        "sw/xp3_letters_sw_train_is_it.jsonl": ["sw"],
        "yo/xp3_letters_yo_train_is_it.jsonl": ["yo"],
    }


def test_mistakes_are_told(place):
    with pytest.raises(UserError, match="matches.*Did you mean 'imdb'"):
        place.build(only=("imbd",))
    (place.root / "list.toml").write_text(
        f"[[data]]\ndataset='imdb'\nsplit='train'\nfiles='{place.root}/raw/imdb/train.jsonl'"
    )
    with pytest.raises(UserError, match="imdb train is given twice"):
        place.build(data=(str(place.root / "list.toml"),))
    place.data("mlqa/mlqa.ar.ar/train", [{"question": "q"}])
    with pytest.raises(UserError, match="no templates.*branch tr13, xp3mt or xp3x"):
        place.build(only=("mlqa",))


OWN = {
    "xcopa/en": ("cause", "{{ premise }} Because? ||| {{ [choice1, choice2][label] }}"),
    "paws-x/en": ("same", "{{ sentence1 }} = {{ sentence2 }} ? ||| {{ ['no', 'yes'][label] }}"),
    "xquad/xquad.en": ("ask", "{{ context }} {{ question }} ||| {{ answers.text[0] }}"),
    "Helsinki-NLP/tatoeba_mt/eng-swh": ("to-eng-swh", "{{ sourceString }} ||| {{ targetString }}"),
    "gatitos": ("term", "{{ english }} in {{ code }} ||| {{ term }}"),
}  # fmt: skip
REAL = """
[[data]]
dataset = "xcopa"
subset = ["qu", "sw"]
split = "train"
files = "{place}/xcopa/{{subset}}/val.{{subset}}.jsonl"
[[data]]
dataset = "paws-x"
subset = "es"
split = "train"
files = "{place}/pawsx/dev-es.tsv"
columns = ["sentence1", "sentence2", "label:int"]
[[data]]
dataset = "xquad"
subset = "xquad.hi"
split = "train"
files = "{place}/xquad/xquad.hi.json"
[[data]]
dataset = "Helsinki-NLP/tatoeba_mt"
subset = "eng-swh"
split = "train"
files = {{ sourceString = "{place}/tatoeba/tatoeba.swh-eng.eng", targetString = "{place}/tatoeba/tatoeba.swh-eng.swh" }}
[[data]]
dataset = "gatitos"
subset = "tum"
split = "train"
files = "{place}/gatitos/en_tum.tsv"
columns = ["english", "term"]
constants = {{ code = "{{subset}}" }}
language = "{{subset}}"
prompts = "gatitos"
"""  # noqa: E501


def test_real_data_with_our_own_prompts(tmp_path, shared):
    place = Place(tmp_path)
    for key, (name, jinja) in OWN.items():
        place.prompts(key, template(name, jinja))
    (tmp_path / "real.toml").write_text(REAL.format(place=shared / "data"))
    options = {"collection": "real", "raw_dir": None, "data": (str(tmp_path / "real.toml"),)}
    record = place.build(**options, held_out=True)
    assert accounted(record)
    rows = place.files("real")
    counts = {name: len(found) for name, found in rows.items()}
    assert counts == {
        "es/xp3_paws-x_es_train_same.jsonl": 2000,
        "hi/xp3_xquad_xquad.hi_train_ask.jsonl": 1190,
        "qu/xp3_xcopa_qu_train_cause.jsonl": 100,
        "sw/xp3_Helsinki-NLP_tatoeba_mt_eng-swh_train_to-eng-swh.jsonl": 390,
        "sw/xp3_xcopa_sw_train_cause.jsonl": 100,
        "tum/xp3_gatitos_tum_train_term.jsonl": len(
            (shared / "data/gatitos/en_tum.tsv").read_text(encoding="utf-8").splitlines()
        ),
    }
    sw = rows["sw/xp3_Helsinki-NLP_tatoeba_mt_eng-swh_train_to-eng-swh.jsonl"]
    assert {"inputs": "He brought me coffee.", "targets": "Alinileta kahawa."} in sw
