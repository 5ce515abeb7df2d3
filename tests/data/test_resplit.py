"""Data that came in one part: class by class, groups together, the same for the same seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capdeploy.arrays import Arrays
from capdeploy.errors import ConfigError, DataError
from capdeploy.listing import Files, Listing
from capdeploy.resplit import resplit


def arrays(*counts, splits=("all",)):
    """Images of one pixel that know which they are."""
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1)
    names = tuple(f"class{label}" for label in range(len(counts)))
    return Arrays("small", names, dict.fromkeys(splits, images), dict.fromkeys(splits, labels))


def files(members):
    """Files named by (class, group), which need not exist to be split."""
    ordered = sorted(members)
    labels = np.array([label for label, _ in ordered], dtype=np.int64)
    names = [f"track{group}_{index}.png" for index, (_, group) in enumerate(ordered)]
    listing = Listing(("somewhere",), names, np.zeros(len(names), np.int32), labels)
    return Files(("a", "b", "c"), {"all": listing})


def rows(data, split):
    return [int(data.read(split, index)[0, 0, 0]) for index in range(len(data.labels(split)))]


@pytest.mark.parametrize(("shares", "held"), [("80/20", 0.2), ("50/50", 0.5), ("99/1", 0.01)])
def test_every_class_gives_its_share(shares, held):
    counts = (100, 10, 37, 2)
    data = resplit(arrays(*counts), shares, None, seed=0)
    assert data.splits == ("train", "test")
    expected = [max(1, round(held * count)) for count in counts]
    assert np.bincount(data.labels("test")).tolist() == expected
    total = np.bincount(data.labels("train")) + np.bincount(data.labels("test"))
    assert total.tolist() == list(counts)
    assert sorted(rows(data, "train") + rows(data, "test")) == list(range(sum(counts)))


def test_what_belongs_to_the_data_stays():
    whole = arrays(10, 10)
    data = resplit(whole, "80/20", None, seed=0)
    assert (data.names, data.preprocessing, data.aliases) == (
        whole.names, whole.preprocessing, whole.aliases,
    )  # fmt: skip
    for split in data.splits:
        for index, row in enumerate(rows(data, split)):
            assert data.labels(split)[index] == whole.labels("all")[row]
            assert data.describe(split, index) == f"small/all/{row}"
        assert rows(data, split) == sorted(rows(data, split))


def test_the_same_seed_gives_the_same_split():
    once, again, other = (
        rows(resplit(arrays(50, 50), "80/20", None, seed=seed), "test") for seed in (0, 0, 1)
    )
    assert once == again
    assert once != other


def test_a_class_of_one_image_stays_in_training():
    data = resplit(arrays(5, 1), "50/50", None, seed=0)
    assert 1 in data.labels("train")
    assert 1 not in data.labels("test")


@pytest.mark.parametrize("part", ["train", "test", "val"])
def test_the_only_part_may_have_a_name(part):
    data = resplit(arrays(10, 10, splits=(part,)), "80/20", None, seed=0)
    assert data.splits == ("train", "test")
    assert data.describe("test", 0).startswith(f"small/{part}/")


@given(
    members=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), min_size=1, max_size=60),
    test=st.integers(1, 99),
    seed=st.integers(0, 3),
)
def test_groups_are_never_on_both_sides(members, test, seed):
    whole = files(members)
    data = resplit(whole, f"{100 - test}/{test}", r"track(\d+)_", seed=seed)
    sides = {
        split: [data.describe(split, index) for index in range(len(data.labels(split)))]
        for split in data.splits
    }
    groups = {split: {name.split("_")[0] for name in names} for split, names in sides.items()}
    assert not groups["train"] & groups["test"]
    everything = [whole.describe("all", index) for index in range(len(members))]
    assert sorted(sides["train"] + sides["test"]) == sorted(everything)
    again = resplit(whole, f"{100 - test}/{test}", r"track(\d+)_", seed=seed)
    assert np.array_equal(again.rows["test"], data.rows["test"])


@given(
    sizes=st.lists(st.lists(st.integers(1, 6), min_size=2, max_size=8), min_size=1, max_size=3),
    test=st.integers(1, 99),
)
def test_groups_of_one_class_reach_its_share_and_leave_some(sizes, test):
    members = [
        (label, 10 * label + group)
        for label, groups in enumerate(sizes)
        for group, size in enumerate(groups)
        for _ in range(size)
    ]
    data = resplit(files(members), f"{100 - test}/{test}", r"track\d+_", seed=0)
    for label, groups in enumerate(sizes):
        held = int((data.labels("test") == label).sum())
        wanted = max(1, round(test / 100 * sum(groups)))
        assert 0 < held < sum(groups)
        assert held < wanted + max(
            groups
        )  # the last group may be too large, none after it is drawn
        assert held >= min(wanted, sum(groups) - max(groups))


def test_without_brackets_all_that_is_found_counts():
    members = [(label, group) for label in (0, 1) for group in range(4) for _ in range(3)]
    # Numbers of images differ within a track, so that each is a group of its own.
    single = resplit(files(members), "50/50", r"track\d+_\d+", seed=0)
    assert np.bincount(single.labels("test")).tolist() == [6, 6]
    # The bracket that need not take part did not.
    with pytest.raises(ConfigError, match=r"finds nothing in somewhere/track0_0\.png"):
        resplit(files(members), "50/50", r"track\d+_(x)?", seed=0)


def test_a_million_images_are_split_in_no_time():
    labels = np.arange(1_000_000) % 2
    images = np.zeros((len(labels), 1, 1), np.uint8)
    whole = Arrays("large", ("a", "b"), {"all": images}, {"all": labels})
    data = resplit(whole, "80/20", None, seed=0)
    assert np.bincount(data.labels("test")).tolist() == [100_000, 100_000]


# What is refused


@pytest.mark.parametrize(
    "shares",
    ["80", "80/", "/20", "80/30", "0/100", "100/0", "-20/120", "a/b", "80/20/0", "80 / 20"],
)
def test_shares_that_do_not_add_up(shares):
    words = f"--split {shares}: expected two shares that add up to 100, such as 80/20"
    with pytest.raises(ConfigError, match=words):
        resplit(arrays(10, 10), shares, None, seed=0)


@pytest.mark.parametrize(("shares", "group"), [("80/20", None), (None, "x"), ("80/20", "x")])
def test_an_owner_s_split_is_left_alone(shares, group):
    split = arrays(10, 10, splits=("train", "test"))
    assert resplit(split, None, None, seed=0) is split
    with pytest.raises(DataError, match=r"has splits already \(train, test\); leave --split and "):
        resplit(split, shares, group, seed=0)


@pytest.mark.parametrize(
    ("part", "words"),
    [("all", "no test split"), ("train", "no test split"), ("test", "only a test split")],
)
@pytest.mark.parametrize("group", [None, "x"])
def test_one_part_and_no_shares(part, words, group):
    with pytest.raises(DataError, match=f"the data has {words}; say how .* --split 80/20"):
        resplit(arrays(10, 10, splits=(part,)), None, group, seed=0)


@pytest.mark.parametrize("splits", [("val", "test"), ("train", "all")])
def test_splits_that_do_not_serve(splits):
    with pytest.raises(DataError, match=f"has splits {', '.join(splits)}; expected train, and"):
        resplit(arrays(10, 10, splits=splits), None, None, seed=0)


@pytest.mark.parametrize(
    ("group", "words"),
    [("(", r"'\(' is not a regular expression"), ("frame", "'frame' finds nothing in somewhere/")],
)
def test_groups_that_cannot_be_found(group, words):
    with pytest.raises(ConfigError, match=f"--split-group {words}"):
        resplit(files([(0, 1), (1, 2)]), "80/20", group, seed=0)
