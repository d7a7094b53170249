"""When a claim is born, dies or moves follows from its verdicts by one rule."""

import copy
import json
from dataclasses import replace

import pytest

from mechtest.cli import main
from mechtest.errors import InputError
from mechtest.plugin.levels import holm
from mechtest.report import write_report
from mechtest.report.timeline import LEVELS, LEVELS_HOLM, RULE, read_timeline, with_claims
from mechtest.report.timeline_picture import timeline_picture
from mechtest.report.timeline_text import step_text, timeline_lines
from tests.report.example import HOSTILE
from tests.report.training import report_over, rows_over


def fate(letters, **changes):
    (track,) = read_timeline([report_over(rows_over("a", letters, **changes))]).tracks
    return track.fate


@pytest.mark.parametrize(
    ("letters", "expected"),
    [
        ("RRRR", "never born"),
        ("ESSS", "born at 200"),
        ("RSRS", "born at 800"),  # once is not twice, and the last one needs no second
        ("SSSS", "born at 100"),
        ("RRRS", "born at 800"),
        ("SSRS", "born at 100"),  # one refutation between is no death
        ("SSRR", "born at 100, died at 400"),
        ("SSSR", "born at 100, died at 800"),
        ("SS??", "born at 100"),  # not established any more is not refuted
        ("SSE-", "born at 100"),
        ("S?SS", "born at 400"),
        ("SSRRSS", "born at 100, died at 400, born at 1600"),
        ("S", "born at 100"),
        ("-", "never born"),
    ],
)
def test_births_and_deaths(letters, expected):
    assert fate(letters) == expected


def test_support_behind_a_closed_gate_bears_nothing():
    assert fate("SSSS", gates="ccoo") == "born at 400"


def test_a_death_is_a_move_where_the_same_is_born_at_another_site():
    old = rows_over("early", "SSRR")
    report = report_over(old, rows_over("late", "RRSS", site="blocks.1.state@last"))
    fates = {t.key.rpartition("_")[2]: t.fate for t in read_timeline([report]).tracks}
    assert fates["x.py::early"] == "born at 100, moved at 400 to late"
    assert fates["x.py::late"] == "born at 400"


@pytest.mark.parametrize(
    ("letters", "changes"),
    [
        ("RRRS", {"site": "blocks.1.state@last"}),  # born after the death
        ("SSSS", {"site": "blocks.1.state@last"}),  # was there all along
        ("RRSS", {}),  # the same site
        ("RRSS", {"site": "blocks.1.state@last", "family": "another"}),
        ("RRSS", {"site": "blocks.1.state@last", "prompt_ids": ["others"] * 4}),
    ],
    ids=["later", "before", "same site", "family", "prompts"],
)
def test_what_is_no_move(letters, changes):
    report = report_over(rows_over("early", "SSRR"), rows_over("late", letters, **changes))
    early = next(t for t in read_timeline([report]).tracks if t.key.endswith("early"))
    assert early.fate == "born at 100, died at 400"


def test_checkpoints_come_by_number_from_one_report_or_many():
    rows = rows_over("a", "RRSS", steps=[90, 800, 1000, 10_000])
    whole = read_timeline([report_over(rows[::-1])])
    parts = read_timeline([report_over([one]) for one in (rows[3], rows[0], rows[2], rows[1])])
    assert [m.step for m in whole.tracks[0].moments] == [90, 800, 1000, 10_000]
    assert parts.tracks == whole.tracks
    assert whole.steps == (90, 800, 1000, 10_000)


def test_single_checkpoints_of_one_run_are_one_track():
    rows = rows_over("a", "RSS")
    for one, suite in zip(rows, ["out/step-100", "out/step-200", "out/step-400"], strict=True):
        one["model"] |= {"suite": suite, "checkpoint": "", "seed": None}
    (track,) = read_timeline([report_over(rows)]).tracks
    assert (track.suite, track.fate) == ("out", "born at 200")
    for one, revision in zip(rows, ["step100", "step200", "step400"], strict=True):
        one["model"]["suite"] = f"owner/name@{revision}"
    (track,) = read_timeline([report_over(rows)]).tracks
    assert (track.suite, track.moments[0].checkpoint) == ("owner/name", "name@step100")


def test_other_suites_and_seeds_are_other_tracks():
    rows = [*rows_over("a", "SS"), *rows_over("a", "RR"), *rows_over("a", "??")]
    for one in rows[2:4]:
        one["model"] = {**one["model"], "seed": 1}
    for one in rows[4:]:
        one["model"] = {**one["model"], "suite": "other"}
    tracks = read_timeline([report_over(rows)]).tracks
    assert [(t.suite, t.seed, t.fate) for t in tracks] == [
        ("zoo", 0, "born at 100"), ("zoo", 1, "never born"), ("other", 0, "never born"),
    ]  # fmt: skip


def test_rows_without_a_step_and_rows_given_twice_are_told():
    rows = rows_over("a", "RS")
    loose = copy.deepcopy(rows[0])
    loose["model"]["step"] = None
    timeline = read_timeline([report_over([*rows, loose]), report_over(rows[1:])])
    assert timeline.unplaced == (loose["id"],)
    assert timeline.replaced == (rows[1]["id"],)
    text = "\n".join(timeline_lines(timeline))
    assert "no training step in the name of the model of" in text
    assert "the later report counts" in text


def test_claims_that_were_not_asked_alike_are_told():
    rows = rows_over("a", "ESS")
    rows[1]["settings"] = [{"threshold": 0.4}]
    rows[2]["level"] = 0.01
    (track,) = read_timeline([report_over(rows)]).tracks
    assert track.differs == ("threshold", "level")
    assert "a was not asked alike at all checkpoints: threshold, level" in "\n".join(
        timeline_lines(read_timeline([report_over(rows)]))
    )


def test_holm_over_checkpoints_takes_support_away_and_says_so():
    """Twice .002 at four checkpoints is .008 corrected: within .0125, not within .005."""
    rows = rows_over("a", "RRSS")
    kept = read_timeline([report_over(rows)], adjust=holm)
    assert [m.p_steps for m in kept.tracks[0].moments] == pytest.approx([1, 1, 0.008, 0.008])
    assert kept.tracks[0].fate == "born at 400"
    strict = [{**one, "level": 0.005} for one in rows]
    assert read_timeline([report_over(strict)]).tracks[0].fate == "born at 400"
    lost = read_timeline([report_over(strict)], adjust=holm)
    assert lost.tracks[0].fate == "never born"
    assert (lost.levels, kept.levels) == (LEVELS_HOLM, LEVELS_HOLM)
    assert " s 0.90" in "\n".join(timeline_lines(lost))


def test_the_table_holds_verdicts_effects_and_the_rule():
    report = report_over(rows_over("early", "SSRR"), rows_over("b", "E?S-"))
    lines = timeline_lines(read_timeline([report]), 120)
    assert lines[0].split() == ["100", "200", "400", "800"]
    assert "    S 0.90  S 0.90  R 0.10  R 0.10   born at 100, died at 400" in lines
    assert RULE in lines
    assert LEVELS in lines
    narrow = timeline_lines(read_timeline([report]), 30)
    assert "    S    S    R    R   born at 100, died at 400" in narrow
    assert timeline_lines(read_timeline([])) == [
        "No claim was checked on a model whose name says its training step."
    ]


@pytest.mark.parametrize(
    ("step", "text"),
    [(0, "0"), (2500, "2500"), (10_000_000, "10M"), (2_500_000_000, "2.5B"), (1234567, "1234567")],
)
def test_steps_are_said_exactly(step, text):
    assert step_text(step) == text


def test_claims_are_chosen_by_a_part_of_their_name_or_a_pattern():
    timeline = read_timeline([report_over(rows_over("early", "SS"), rows_over("late", "SS"))])
    assert [t.key for t in with_claims(timeline, "lat").tracks] == ["claims/test_x.py::late"]
    assert len(with_claims(timeline, "*l*").tracks) == 2
    with pytest.raises(InputError, match="no claim matches 'laet'") as error:
        with_claims(timeline, "laet")
    assert error.value.closest == ("late",)


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_a_picture_is_the_same_whenever_it_is_drawn(suffix):
    timeline = read_timeline(
        [report_over(rows_over("early", "SSRR"), rows_over("late", "E?SS", site="x"))]
    )
    picture = timeline_picture(timeline, suffix)
    assert suffix == ".png" or picture == timeline_picture(timeline, suffix)
    assert picture.startswith(b"\x89PNG" if suffix == ".png" else b"<?xml")


def test_hostile_text_is_drawn_and_printed_as_text():
    claims = [rows_over(f"c{i}", "RS", statement=text) for i, text in enumerate(HOSTILE)]
    claims.append(rows_over("cjk", "RS", statement="\u732b has no letter in the font"))
    timeline = read_timeline([report_over(*claims)])
    some = replace(timeline, tracks=(*timeline.tracks[:2], timeline.tracks[7], timeline.tracks[-1]))
    picture = timeline_picture(some, ".svg").decode()
    assert "<script" not in picture
    assert "<img" not in picture
    text = "\n".join(timeline_lines(timeline))
    assert not {"\x1b", "\x00", "\x07", "\u2028", "\x9b"} & set(text)


def test_a_picture_of_too_much_or_of_nothing_is_refused():
    timeline = read_timeline([report_over(*[rows_over(f"c{i}", "S") for i in range(49)])])
    with pytest.raises(InputError, match="49 claims do not fit"):
        timeline_picture(timeline, ".png")
    with pytest.raises(InputError, match="0 claims"):
        timeline_picture(read_timeline([]), ".png")
    with pytest.raises(InputError, match=r"not drawn as \.pdf"):
        timeline_picture(timeline, ".pdf")


def test_the_command_prints_draws_and_filters(tmp_path, capsys):
    write_report(report_over(rows_over("a", "RSSS"), rows_over("b", "RRRR")), tmp_path / "r")
    picture = tmp_path / "new" / "line.svg"
    assert main(["timeline", str(tmp_path / "r"), "--output", str(picture), "--claim", "::a"]) == 0
    printed = capsys.readouterr()
    assert "born at 200" in printed.out
    assert "claim b" not in printed.out
    assert printed.err == f"wrote {picture}\n"
    assert picture.read_text().startswith("<?xml")
    assert main(["timeline", str(tmp_path / "r"), "--json", "--holm"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["rule"] == RULE
    assert content["claims"][0]["turns"] == [{"what": "born", "step": 200, "to": []}]
    assert content["claims"][0]["moments"][1]["p_steps"] == pytest.approx(0.008)


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    assert main(["timeline", str(tmp_path)]) == 2
    assert "there is no report" in capsys.readouterr().err
    write_report(report_over(rows_over("a", "RS")), tmp_path)
    assert main(["timeline", str(tmp_path), "--output", str(tmp_path / "x.pdf")]) == 2
    assert "expected  .png or .svg" in capsys.readouterr().err
