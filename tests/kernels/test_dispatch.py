"""The fastest path that serves every hook runs; a hook is never lost in silence."""

import pytest

from mechtest.errors import SiteNotServedError
from mechtest.kernels import SCAN_PATHS, choose_scan
from mechtest.kernels.dispatch import REFERENCE, STEPWISE
from mechtest.sites.table import BLOCK_HOOKS

HIDDEN = ["hook_A_bar", "hook_B_bar", "hook_ssm_write"]


def test_without_hooks_the_fastest_path_runs():
    assert choose_scan([], "cpu") is STEPWISE
    assert choose_scan([], "cpu", fast=True) is STEPWISE


@pytest.mark.parametrize("hook", HIDDEN)
def test_a_hook_that_the_fast_path_hides_falls_back(hook):
    assert choose_scan(["hook_h", hook], "cpu") is REFERENCE


@pytest.mark.parametrize("hook", HIDDEN)
def test_insisting_on_the_fast_path_with_a_hidden_hook_raises(hook):
    with pytest.raises(
        SiteNotServedError,
        match=rf"\[MT102\] the 'stepwise' scan of fast_ssm=True never builds {hook}"
        r"(.|\n)*leave fast_ssm out",
    ):
        choose_scan(["hook_h", hook], "cpu", fast=True)


def test_the_reference_can_be_asked_for():
    assert choose_scan([], "cpu", fast=False) is REFERENCE


@pytest.mark.parametrize("fast", [None, True, False])
def test_an_unknown_device_gets_the_reference(fast):
    assert choose_scan(["hook_A_bar"], "tpu", fast=fast) is REFERENCE


@pytest.mark.parametrize("hook", [spec.name for spec in BLOCK_HOOKS])
def test_every_hook_has_a_path(hook):
    assert choose_scan([hook], "cpu").serves([hook])


def test_paths_hide_only_hooks_that_exist_and_the_last_hides_none():
    known = {spec.name for spec in BLOCK_HOOKS}
    assert all(path.hides <= known for path in SCAN_PATHS)
    assert not SCAN_PATHS[-1].hides
