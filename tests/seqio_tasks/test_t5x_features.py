"""Every registered mixture through SeqIO's own EncDecFeatureConverter: what stock T5X trains on."""

import itertools

import numpy as np
import pytest
import seqio

import seqio_tasks.scored  # noqa: F401  (registers the scored forms)
from mt0_tpu.data import batches
from mt0_tpu.data.dataset_config import DatasetConfig
from seqio_tasks import mini, xp3_tasks
from tests.seqio_tasks.conftest import XP3_CODES, write_lines

ROWS = {"inputs": 96, "targets": 32}
UNPACKED = {
    "encoder_input_tokens": "inputs",
    "decoder_target_tokens": "targets",
    "decoder_input_tokens": "targets",
    "decoder_loss_weights": "targets",
}
PACKED = UNPACKED | {
    "encoder_segment_ids": "inputs",
    "encoder_positions": "inputs",
    "decoder_segment_ids": "targets",
    "decoder_positions": "targets",
}
EXAMPLES = 120
# Opening the hundreds of tasks of a large mixture takes SeqIO a minute.
slow = pytest.mark.slow
MIXTURES = [
    pytest.param("mini_english", "train"),
    pytest.param("mini_english", "validation"),
    pytest.param("mini_pretrain", "train"),
    pytest.param("mini_multilingual", "train", marks=slow),
    pytest.param("mini_eval", "validation", marks=slow),
]
# One of each kind for the quick run.
TASKS = [("mini_translation_sw", "train"), ("mini_eval_nli_te", "validation")]
# mini_eval_scored comes of mini_eval by one rule: one task a cluster stands for all.
TASKS += [(f"mini_eval_{cluster}_sw_scored", "validation") for cluster in mini.evaluations_of("sw")]


def converted(name, split, rows=ROWS):
    """The same examples as T5X would see them, (unpacked, packed), as lists of dicts."""
    provider = seqio.get_mixture_or_task(name)
    lengths = {feature: rows[feature] for feature in rows if feature in provider.output_features}
    dataset = provider.get_dataset(lengths, split, shuffle=False, seed=3, num_epochs=1)
    # Read once: opening the mixture is what takes long.
    dataset = dataset.take(EXAMPLES).cache()
    found = []
    for pack in (False, True):
        converter = seqio.EncDecFeatureConverter(pack=pack)
        found.append(list(converter(dataset, rows).as_numpy_iterator()))
    return found


def check_shapes(examples, features, rows=ROWS):
    assert examples
    for example in examples:
        assert set(example) == set(features)
        for feature, side in features.items():
            assert (example[feature].dtype, example[feature].shape) == (np.int32, (rows[side],))


def unpacked_sides(example, ends):
    """(inputs, targets) of an unpacked example, after checks of all its features."""
    targets_L = example["decoder_target_tokens"]
    shifted_L = np.concatenate([[0], targets_L[:-1]])
    np.testing.assert_array_equal(example["decoder_input_tokens"], shifted_L)
    np.testing.assert_array_equal(example["decoder_loss_weights"], targets_L != 0)
    sides = []
    for feature, end in zip(("encoder_input_tokens", "decoder_target_tokens"), ends, strict=True):
        tokens_L = example[feature]
        count = int((tokens_L != 0).sum())
        # Padding only at the end, and EOS before it even where the text was cut.
        assert count and (tokens_L[:count] != 0).all() and tokens_L[count - 1] in end
        sides.append(tuple(tokens_L[:count].tolist()))
    return tuple(sides)


def packed_sides(row, ends):
    """(inputs, targets) of every example of a packed row, after checks of all its features."""
    encoder_L, decoder_L = row["encoder_segment_ids"], row["decoder_segment_ids"]
    segments = int(encoder_L.max())
    assert segments == decoder_L.max() > 0
    np.testing.assert_array_equal(row["decoder_loss_weights"], decoder_L != 0)
    sides = []
    for segment in range(1, segments + 1):
        pair = []
        for side, tokens, end in (
            ("encoder", row["encoder_input_tokens"], ends[0]),
            ("decoder", row["decoder_target_tokens"], ends[1]),
        ):
            places = np.flatnonzero(row[f"{side}_segment_ids"] == segment)
            # In one piece, counted from 0.
            np.testing.assert_array_equal(row[f"{side}_positions"][places], np.arange(len(places)))
            np.testing.assert_array_equal(np.diff(places), 1)
            assert tokens[places[-1]] in end
            pair.append(tuple(tokens[places].tolist()))
        shifted = row["decoder_input_tokens"][decoder_L == segment].tolist()
        assert shifted == [0, *pair[1][:-1]]
        sides.append(tuple(pair))
    for side, tokens in (("encoder", "encoder_input_tokens"), ("decoder", "decoder_target_tokens")):
        assert (row[tokens][row[f"{side}_segment_ids"] == 0] == 0).all()
    return sides


def check(name, split, rows=ROWS, least_packed=1.5):
    """Checks a mixture's features both ways; returns its examples as (inputs, targets)."""
    features = seqio.get_mixture_or_task(name).output_features
    ends = [
        [features[side].vocabulary.eos_id] if features[side].add_eos else range(1, 1 << 31)
        for side in ("inputs", "targets")
    ]
    unpacked, packed = converted(name, split, rows)
    check_shapes(unpacked, UNPACKED, rows)
    check_shapes(packed, PACKED, rows)
    one_by_one = [unpacked_sides(example, ends) for example in unpacked]
    together = list(itertools.chain(*(packed_sides(row, ends) for row in packed)))
    if name == "mini_pretrain":  # each way of reading corrupts anew, in the same lengths
        assert sorted(map(_lengths, one_by_one)) == sorted(map(_lengths, together))
    else:
        assert sorted(one_by_one) == sorted(together)
    assert len(unpacked) >= least_packed * len(packed)
    return one_by_one


def _lengths(sides):
    return [len(side) for side in sides]


def test_the_list_is_whole():
    registered = {name for name in seqio.MixtureRegistry.names() if name.startswith("mini_")}
    checked = {parameter.values[0] for parameter in MIXTURES}
    assert checked == registered - {"mini_eval_scored"} | {"mini_pretrain"}


@pytest.mark.parametrize("name, split", MIXTURES)
def test_mixtures(name, split):
    assert len(check(name, split)) == EXAMPLES


@pytest.mark.parametrize("name, split", TASKS)
def test_tasks(name, split):
    check(name, split)


def test_features_are_named_as_the_trainers():
    config = DatasetConfig("mini_english", ROWS, batch_size=4, pack=True)
    ours = {name: leaf.shape[1:] for name, leaf in batches.abstract_batch(config).items()}
    assert ours == {name: (ROWS[side],) for name, side in PACKED.items()}


def test_short_rows_cut_the_text_and_keep_eos():
    short = {"inputs": 12, "targets": 6}
    for name, split in TASKS[:3]:
        sides = check(name, split, short, least_packed=1)
        assert max(len(inputs) for inputs, _ in sides) == 12


def test_seqios_whole_chain_with_a_batch_size():
    dataset = seqio.get_dataset(
        "mini_pretrain",
        ROWS,
        seqio.EncDecFeatureConverter(pack=True),
        dataset_split="validation",
        shuffle=True,
        num_epochs=None,
        seed=0,
        batch_size=4,
        shard_info=seqio.ShardInfo(1, 2),
    )
    batch = next(dataset.as_numpy_iterator())
    assert {name: value.shape for name, value in batch.items()} == {
        name: (4, ROWS[side]) for name, side in PACKED.items()
    }


# The released collections, in tiny folders (see conftest).


@pytest.fixture
def collections(family, xp3mt_folder, xp3x_folder, p3_folder, xp3megds_folder):
    """Everything that an import of seqio_tasks.xp3 registers over those folders."""
    for code in XP3_CODES:
        write_lines(family / "xP3" / code / f"merged_{code}.jsonl", 12)
    xp3_tasks.ensure_at_hand()
    return [name for name in seqio.MixtureRegistry.names() if name.startswith(("xp3", "p3"))]


def test_one_mixture_of_each_layout(collections):
    for name in ("p3", "xp3mt_sw", "xp3x_yor_Latn", "xp3megds"):
        assert name in collections
        check(name, "train", least_packed=2)
    # Megatron's ids go through untouched: no text, no EOS of ours.
    assert sorted(check("xp3megds", "train", least_packed=2)) == [
        ((5, 6), (8, 2)),
        ((7,), (9, 2)),
    ]
    check("xp3_sw", "train", least_packed=2)
    # One line in 2,000 is held out, and twelve lines may have none: no error, no example.
    assert converted("xp3_sw", "validation") == [[], []]


@slow
def test_every_mixture_of_the_collections(collections):
    assert {"xp3", "xp3_bloomz", "xp3mt", "xp3x", "p3", "xp3megds"} <= set(collections)
    # A collection's mixtures by other rates hold the same tasks: each set of tasks once.
    sets = {}
    for name in collections:
        tasks = frozenset(task.name for task in seqio.get_mixture_or_task(name).tasks)
        sets.setdefault(tasks, name)
    for name in sets.values():
        check(name, "train", least_packed=1)
