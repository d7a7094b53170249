"""The table of a plan: what each claim would take, and all of them."""

from mechtest.plugin.plan_cells import PLAN_HEADER, plan_cells, plan_total

ROW = {"statement": "it is so", "level": 0.025}


def plan(gflop, tokens, size, **changes):
    cost = {"gflop": gflop, "forward_tokens": tokens, "bytes": size}
    return {"clusters": 8, "needed_clusters": 6, "controls": 59, "needed_controls": 57,
            "seeds": 1, "forward_passes": 300, "cost": cost, **changes}  # fmt: skip


def test_a_row_has_a_cell_for_every_column():
    (cells,) = plan_cells([(ROW, plan(12.3, 4000, 3 << 20))])
    assert len(cells) == len(PLAN_HEADER)
    assert cells[3:] == ["57/59", "1", "300", "12", "4,000", "3"]


def test_what_is_not_known_is_a_dash():
    (cells,) = plan_cells([(ROW, {"settings": {}, "seeds": 1})])
    assert cells[2:] == ["-/-", "-/-", "1", "-", "-", "-", "-"]
    (hooked,) = plan_cells([(ROW, plan(0.25, 10, 0))])
    assert hooked[-3:] == ["0.25", "10", "-"]


def test_the_total_adds_work_and_takes_the_largest_memory():
    plans = [
        (ROW, plan(12.0, 4000, 3 << 20)),
        (ROW, plan(30.0, 1000, 9 << 20, seeds=5)),
        (ROW, plan(0, 0, 0, cost=None, needed_controls=0)),
    ]
    assert plan_total(plans) == (
        "in all: 2 of 3 claims, 342 controls, 42 GFLOP, 5,000 tokens through the model, up to 9 MiB"
    )
    assert plan_total(plans[2:]) == ""
    assert plan_total([(ROW, plan(1.0, 10, 0))]).endswith("10 tokens through the model")
