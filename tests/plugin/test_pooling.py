"""Workers share what they measured, and nothing of it is left behind."""

import tempfile
from pathlib import Path

from mechtest.interventions.run_pool import POOL_VARIABLE
from mechtest.plugin import pooling

pytest_plugins = ["pytester"]

WRITES = """
import os
from pathlib import Path

@mt.claim("a")
def test_a():
    place = Path(os.environ["MECHTEST_RUN_POOL"])
    assert place.is_dir()
    (place / "key.npy").write_bytes(b"")
    Path("pool.txt").write_text(str(place))
    fake()
"""


def test_one_name_for_the_variable():
    """The plugin does not import torch, so the name stands twice."""
    assert pooling.VARIABLE == POOL_VARIABLE


def test_workers_have_a_directory_that_goes_with_the_run(project, monkeypatch):
    monkeypatch.delenv(POOL_VARIABLE, raising=False)
    project.write(test_a=WRITES)
    result = project.run("-n", "1")
    result.assert_outcomes(passed=1)
    place = Path((project.path / "pool.txt").read_text())
    assert place.parent == Path(tempfile.gettempdir())
    assert not place.exists()


def test_a_process_alone_makes_none(project, monkeypatch):
    monkeypatch.delenv(POOL_VARIABLE, raising=False)
    project.write(test_a="import os\n" + "@mt.claim('a')\ndef test_a():\n"
                  "    assert 'MECHTEST_RUN_POOL' not in os.environ\n    fake()\n")  # fmt: skip
    project.run("-n", "0").assert_outcomes(passed=1)
