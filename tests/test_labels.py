"""Which output each data class is, and which classes the user's words mean."""

import json

import pytest

from capdeploy.errors import ClassesError, ConfigError
from capdeploy.labels import choose, link, read_map, read_names

DATA = ("bird", "cat", "dog", "red_fox", "speed-limit-20", "speed-limit-50")
SAME = {name: index for index, name in enumerate(DATA)}
ALIASES = {"cat": ("tabby", "n01"), "dog": ("hound", "n02"), "bird": ("hound",)}


def kept(*words, linked=SAME, outputs=6, labels=None, aliases=ALIASES):
    return choose(words, linked, outputs, labels, aliases)[0].kept


# Files


def test_a_labels_file(tmp_path):
    file = tmp_path / "labels.txt"
    file.write_bytes("\ufeffcat \r\nfire truck\r\n\r\nSäge\r\n\r\n\r\n".encode())
    assert read_names(file) == ("cat", "fire truck", "", "Säge")  # a blank line within counts
    file.write_bytes(b"\xff\xfe\x00")
    for path in (file, tmp_path, tmp_path / "nowhere.txt"):
        with pytest.raises(ConfigError, match=f"{path} cannot be read: "):
            read_names(path)


def test_a_label_map(tmp_path):
    for name, text in (("map.json", '{"cat": 7, "dog": 2}'), ("map.toml", "cat = 7\ndog = 2\n")):
        (tmp_path / name).write_text(text)
        assert read_map(tmp_path / name) == {"cat": 7, "dog": 2}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("map.json", "cat = 7", "is not valid JSON or TOML"),
        ("map.toml", '{"cat": 7}', "is not valid JSON or TOML"),
        ("map.json", "[1, 2]", "must be a table from data class to output id"),
        ("map.json", '{"cat": "7"}', "must be a table"),
        ("map.json", '{"cat": true}', "must be a table"),
        ("map.json", '{"cat": 7.0}', "must be a table"),
        ("map.toml", "[animals]\ncat = 7", "must be a table"),
    ],
)
def test_a_label_map_that_is_none(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=f"{name} {words}"):
        read_map(tmp_path / name)


# From data classes to outputs


def test_as_many_classes_as_outputs_need_no_labels():
    assert link(DATA, 6) == SAME
    for outputs in (5, 7, 1000):
        words = f"the data has 6 classes, the head {outputs} outputs; say which .* --labels FILE"
        with pytest.raises(ClassesError, match=words):
            link(DATA, outputs)


def test_labels_say_the_order_of_the_outputs():
    labels = ("speed-limit-50", "dog", "cat", "mouse", "bird", "speed-limit-20", "red_fox")
    linked = link(DATA, 7, labels)
    assert list(linked) == list(DATA)  # the data's order, whatever the head's
    assert linked == {name: labels.index(name) for name in DATA}


def test_a_head_may_have_more_outputs_than_labels_but_not_fewer():
    names = tuple(f"sign{number}" for number in range(43))
    linked = link(names, 48, names)
    assert list(linked.values()) == list(range(43))
    subset, found = choose((), linked, 48, names)
    assert (len(subset), subset.total) == (43, 48)
    assert found == tuple(range(43))
    with pytest.raises(ClassesError, match="the labels file has 43 names, the head 42 outputs"):
        link(names, 42, names)


def test_other_names_find_the_label_and_the_own_name_wins():
    aliases = {"cat": ("tabby", "n01"), "dog": ("hound",)}
    assert link(("cat", "dog"), 2, ("hound", "n01"), aliases=aliases) == {"cat": 1, "dog": 0}
    assert link(("cat",), 3, ("n01", "cat", "tabby"), aliases=aliases) == {"cat": 1}
    assert link(("cat",), 3, ("x", "n01", "tabby"), aliases=aliases) == {"cat": 2}


def test_a_map_wins_over_labels():
    assert link(("cat", "dog"), 9, ("cat", "cat"), {"cat": 7, "dog": 2, "x": 99}) == {
        "cat": 7, "dog": 2,
    }  # fmt: skip


def test_a_map_may_use_another_name():
    aliases = {"cat": ("tabby", "n01"), "dog": ("hound",)}
    assert link(("cat", "dog"), 9, None, {"n01": 7, "dog": 2}, aliases) == {"cat": 7, "dog": 2}
    assert link(("cat",), 9, None, {"n01": 7, "cat": 2}, aliases) == {"cat": 2}


def test_wordnet_ids_are_known_where_the_head_has_a_thousand_outputs():
    assert link(("n02123045", "n01440764"), 1000) == {"n02123045": 281, "n01440764": 0}
    with pytest.raises(ClassesError, match="say which output each"):
        link(("n02123045", "n01440764"), 10)
    with pytest.raises(ClassesError, match="say which output each"):
        link(("n02123045", "cat"), 1000)
    thousand = tuple(f"class{number}" for number in range(1000))
    assert list(link(thousand, 1000).values()) == list(range(1000))


@pytest.mark.parametrize(
    ("labels", "table", "words"),
    [
        (("cat", "bird"), None, r"data class dog \(1 such\) has no output in the labels; add it"),
        ((), None, r"data class cat \(2 such\) has no output"),
        (("cat", "dog", "cat"), None, "'cat' stands more than once in the labels; use --label-map"),
        (None, {"cat": 0}, r"data class dog \(1 such\) has no output"),
        (None, {"cat": 0, "dog": 9}, r"data class dog is output 9, outside 0\.\.8"),
        (None, {"cat": -1, "dog": 1}, r"data class cat is output -1, outside 0\.\.8"),
        (None, {"cat": 1, "dog": 1}, "both are output 1"),
    ],
)
def test_links_that_cannot_be_meant(labels, table, words):
    with pytest.raises(ClassesError, match=words):
        link(("cat", "dog"), 9, labels, table)


def test_another_name_that_stands_twice_is_not_guessed():
    aliases = {"crane (bird)": ("crane",), "crane (machine)": ("crane",)}
    with pytest.raises(ClassesError, match="'crane' stands more than once in the labels"):
        link(("crane (bird)",), 3, ("crane", "tench", "crane"), aliases=aliases)
    with pytest.raises(ClassesError, match=r"crane .bird. and crane .machine. both are output 0"):
        link(tuple(aliases), 3, ("crane", "tench", "lens"), aliases=aliases)


def test_labels_that_nobody_asks_for_may_stand_twice():
    assert link(("cat",), 4, ("", "unused", "unused", "cat")) == {"cat": 3}


# The user's words


def test_the_order_is_the_user_s():
    subset, found = choose(("dog", "bird", "speed-limit-20"), SAME, 6)
    assert subset.kept == found == (2, 0, 4)
    assert subset.names == ("dog", "bird", "speed-limit-20")
    assert subset.total == 6


def test_without_words_all_are_kept_in_the_data_s_order():
    linked = {"cat": 7, "dog": 2, "bird": 5}
    subset, found = choose((), linked, 9)
    assert subset.kept == (7, 2, 5)
    assert subset.names == ("cat", "dog", "bird")
    assert found == (0, 1, 2)


def test_ids_are_the_head_s_and_the_data_class_comes_along():
    linked = {"cat": 7, "dog": 2, "bird": 5}
    subset, found = choose(("5", "cat"), linked, 9)
    assert subset.kept == (5, 7)
    assert subset.names == ("bird", "cat")
    assert found == (2, 0)


def test_names_are_the_labels_where_there_are_some():
    linked = link(("n01", "n02"), 3, ("tabby", "hound", "mouse"), {"n01": 0, "n02": 1})
    subset, _ = choose(("hound", "n01"), linked, 3, ("tabby", "hound", "mouse"))
    assert subset.kept == (1, 0)
    assert subset.names == ("hound", "tabby")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("0-2",), (0, 1, 2)),
        (("4-5", "0-0"), (4, 5, 0)),
        (("speed-*",), (4, 5)),
        (("speed-limit-?0", "cat"), (4, 5, 1)),
        (("[cd]*",), (1, 2)),
        (("cat", "0", "red_fox"), (1, 0, 3)),
        (("tabby", "n02"), (1, 2)),
        (("tab*", "n02"), (1, 2)),
        (("id:3", "id:1"), (3, 1)),
    ],
)
def test_ranges_globs_and_other_names(words, expected):
    assert kept(*words) == expected


@pytest.mark.parametrize(
    ("word", "expected"),
    [("CAT", 1), ("Red Fox", 3), ("red-fox", 3), ("Speed_Limit_20", 4), ("N02", 2)],
)
def test_letters_may_be_large_and_gaps_of_another_kind(word, expected):
    other = "bird"
    assert kept(word, other) == (expected, 0)


def test_the_exact_word_wins_over_one_in_other_letters():
    linked = {"Cardigan": 0, "cardigan": 1, "corgi": 2}
    assert kept("cardigan", "corgi", linked=linked) == (1, 2)
    assert kept("Cardigan", "corgi", linked=linked) == (0, 2)
    with pytest.raises(ClassesError, match=r"'CARDIGAN' is ambiguous: .*0 \(Card.*1 \(cardigan"):
        kept("CARDIGAN", "corgi", linked=linked)


def test_a_file_of_words(tmp_path):
    file = tmp_path / "wanted.txt"
    file.write_text("# for the gate\ndog\n\n4-5\ntab*\n")
    assert kept(f"@{file}", "0") == (2, 4, 5, 1, 0)
    with pytest.raises(ConfigError, match=r"nowhere\.txt cannot be read"):
        kept(f"@{tmp_path / 'nowhere.txt'}")


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n"])
def test_a_file_without_words_does_not_mean_all(tmp_path, text):
    (tmp_path / "wanted.txt").write_text(text)
    with pytest.raises(ClassesError, match="0 class chosen, at least 2"):
        kept(f"@{tmp_path / 'wanted.txt'}")


def test_a_name_that_looks_like_a_range_or_a_pattern_is_a_name():
    linked = {"0-2": 3, "a*": 1, "apple": 0, "7": 2, "@home": 4}
    assert kept("0-2", "a*", linked=linked) == (3, 1)


# Words that cannot be meant


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("catt", "dog"), "unknown class 'catt': did you mean cat"),
        (("9", "dog"), "unknown class '9'"),
        (("", "dog"), "unknown class ''"),
        (("5-9",), r"'5-9'.* ids within 0-5"),
        (("3-1",), "'3-1'.* the smaller first"),
        (("id:6", "dog"), r"'id:6'.* within 0-5"),
        (("lion*", "dog"), r"no class fits the pattern 'lion\*'"),
        (("hound", "cat"), r"class 'hound' is ambiguous: .*0 \(.*or .*2 \("),
        (("cat",), "1 class chosen, at least 2 are needed"),
        (("cat", "tabby"), "class 1 is chosen more than once"),
        (("0-3", "cat"), "class 1 is chosen more than once"),
    ],
)
def test_words_that_cannot_be_meant(words, message):
    with pytest.raises(ClassesError, match=message):
        kept(*words)


def test_an_id_and_a_name_that_differ_are_ambiguous():
    linked = {"7": 1, "1": 7, "x": 3}
    with pytest.raises(ClassesError, match=r"class '7' is ambiguous: .*1 \(7\) or .*7 \(1\)"):
        kept("7", "x", linked=linked, outputs=9)
    assert kept("id:7", "x", linked=linked, outputs=9) == (7, 3)


def test_an_output_without_data_cannot_be_kept():
    labels = ("cat", "dog", "mouse")
    linked = link(("cat", "dog"), 3, labels)
    with pytest.raises(ClassesError, match=r"class mouse \(output 2\) has no images in the data"):
        choose(("cat", "mouse"), linked, 3, labels)
    with pytest.raises(ClassesError, match=r"class mouse \(output 2\) has no images"):
        choose(("0-2",), linked, 3, labels)
    assert choose(("*",), linked, 3, labels)[0].kept == (0, 1)  # a pattern means what is there


def test_a_head_that_knows_fewer_classes_than_the_data():
    names, labels = ("bird", "cat", "dog"), ("dog", "bird")
    linked = link(names, 2, labels, partial=True)
    assert linked == {"bird": 1, "dog": 0}
    subset, found = choose((), linked, 2, labels, names=names)
    assert (subset.kept, found) == ((1, 0), (0, 2))  # data classes keep their numbers
    with pytest.raises(ClassesError, match="unknown class 'cat'"):
        choose(("cat", "dog"), linked, 2, labels, names=names)


def test_messages_are_one_line(tmp_path):
    (tmp_path / "map.json").write_text(json.dumps({"cat": "a\nb"}))
    with pytest.raises(ConfigError) as caught:
        read_map(tmp_path / "map.json")
    assert "\n" not in str(caught.value)


def test_a_number_that_names_a_data_class_is_not_taken_for_another_s_output():
    """The head was trained on digits 7 and 3; the data has all ten."""
    digits = tuple(map(str, range(10)))
    linked = link(digits, 2, ("7", "3"), partial=True)
    assert choose(("3", "7"), linked, 2, ("7", "3"), names=digits)[0].kept == (1, 0)
    said = "does not know data class '0'; its output 0 is 7: write id:0 for that"
    with pytest.raises(ClassesError, match=said):
        choose(("0", "1"), linked, 2, ("7", "3"), names=digits)
    assert choose(("id:0", "id:1"), linked, 2, ("7", "3"), names=digits)[1] == (7, 3)
