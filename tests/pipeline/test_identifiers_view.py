from rich.console import Console

from recinject.pipeline.check import code_groups, identifier_tree, quality_table
from recinject.reporting.result import CodeGroup


def lines(thing, width=100):
    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as captured:
        console.print(thing)
    return [line.rstrip() for line in captured.get().splitlines()]


def test_the_tree_shows_codes_with_titles_and_leaves_the_last_code_out():
    texts = ["<a_1><b_2><d_0>", "<a_1><b_2><d_1>", "<a_1><b_9><d_0>", "<a_3><b_0><d_0>"]
    titles = ["Pump", "Bicycle pump [red]", "Tyre", "Mug"]
    assert lines(identifier_tree(texts, titles)) == [
        "4 items",
        "├── <a_1>  3 items: Pump; Tyre",
        "│   ├── <b_2>  2 items: Pump; Bicycle pump [red]",
        "│   └── <b_9><d_0>  Tyre",
        "└── <a_3><b_0><d_0>  Mug",
    ]


def test_what_is_not_shown_is_counted():
    texts = [f"<a_{n % 5}><b_{n % 3}><c_0>" for n in range(60)]
    shown = lines(identifier_tree(texts, ["x" * 99] * 60, branches=(2, 1)), 160)
    title = "x" * 39 + "…"
    assert shown[1:] == [
        f"├── <a_0>  12 items: {title}; {title}",
        f"│   ├── <b_0>  4 items: {title}; {title}",
        "│   └── 2 more, items in them: 8",
        f"├── <a_1>  12 items: {title}; {title}",
        f"│   ├── <b_0>  4 items: {title}; {title}",
        "│   └── 2 more, items in them: 8",
        "└── 3 more, items in them: 36",
    ]


def test_identifiers_of_any_kind_have_a_tree():
    titles = ["Pump", "Tyre", "Mug"]
    assert lines(identifier_tree(["#2", "#0", "#1"], titles)) == [
        "3 items", "├── #0  Tyre", "├── #1  Mug", "└── #2  Pump"
    ]  # fmt: skip
    assert lines(identifier_tree(["c1 c0", "c1 c1", "c0 c0"], titles)) == [
        "3 items", "├── c1  2 items: Pump; Tyre", "└── c0c0  Mug"
    ]  # fmt: skip


def test_quality_is_a_row_a_level_that_fits_a_terminal():
    row = {
        "level": 1, "used": 0.984375, "entropy": 7.6, "perplexity": 193.96, "error": None,
        "groups": 252, "largest": 1040, "collisions": 12101, "neighbours": 0.7123,
    }  # fmt: skip
    head, _, line = lines(quality_table([row]), 80)
    assert head.split() == [name for name in row if name != "entropy"]
    assert line.split() == ["1", "98.4%", "194.0", "-", "252", "1,040", "12,101", "71.2%"]


def test_groups_are_of_first_codes_cut_by_second_ones():
    texts = ["<a_1><b_2><d_0>", "<a_3><b_0><d_0>", "<a_1><b_9><d_0>", "<a_1><b_2><d_1>"]
    titles = ["", "Mug", "Tyre", "Pump"]
    groups = code_groups(texts, titles)
    assert groups == [
        CodeGroup("<a_1>", [2, 1], ["Pump", "Tyre"]),
        CodeGroup("<a_3>", [1], ["Mug"]),
    ]
    assert code_groups(texts, titles, most=1) == groups[:1]
    assert [group.code for group in code_groups(["c1 c0", "c1 c1"], titles[:2])] == ["c1"]


def test_names_that_are_no_codes_make_no_groups():
    titles = ["Pump", "Mug"]
    for texts in (["#0", "#1"], ["<item_0>", "<item_1>"], ["Mug red", "Pump old"]):
        assert code_groups(texts, titles) == []
