"""In a real browser: hostile text stays text, and the page's one script does what it is for."""

import re
import shutil
import subprocess
from html import unescape

import pytest

from mechtest.report import html
from tests.report.example import HOSTILE, example_report, hostile_rows, random, report_of, row

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
OWNED = [
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "<svg onload=\"document.title='owned'\">",
    '" autofocus onfocus="document.title=\'owned\'" x="',
    "javascript:document.title='owned'",
    "</title><script>document.title='owned'</script>",
]

# Reads like a reader: searches, clears, sorts twice, unfolds; then says what it saw.
READER = """
<script>
addEventListener('load', function () {
  var seen = [];
  function shown() {
    return Array.prototype.filter.call(document.querySelectorAll('#verdict-table tr[data-claim]'),
      function (one) { return getComputedStyle(one).display !== 'none'; })
      .map(function (one) { return one.getAttribute('data-claim'); }).join(',');
  }
  var box = document.getElementById('search');
  function type(text) {
    box.value = text;
    box.dispatchEvent(new Event('input'));
    seen.push(shown());
  }
  type('');
  type('gpu CUDA');
  seen.push(document.getElementById('found').textContent);
  type('');
  var head = document.querySelectorAll('#verdict-table th')[3];
  head.firstChild.click(); seen.push(head.getAttribute('aria-sort') + ' ' + shown());
  head.firstChild.click(); seen.push(head.getAttribute('aria-sort') + ' ' + shown());
  head.firstChild.click(); seen.push(head.getAttribute('aria-sort') + ' ' + shown());
  document.getElementById('unfold').click();
  seen.push(document.querySelectorAll('details.claim:not([open])').length);
  document.title = seen.join('|');
});
</script></body>"""


def dom_of(path, *options):
    """Return a page as the browser has it after loading."""
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", *options,
         f"--user-data-dir={path.parent / 'profile'}", f"file://{path}"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout


def title_of(dom):
    return unescape(re.search(r"<title>(.*?)</title>", dom, re.S)[1])


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here to look with")
def test_hostile_text_is_not_run_and_the_pages_own_script_is(tmp_path):
    rows = hostile_rows(random.Random(0))
    for index, text in enumerate(OWNED):
        rows.append(row(f"x{index}{text}", text, "refuted", reason=text, message=text, replay=text))
        rows[-1]["source"]["code"] = text
    page = tmp_path / "report.html"
    report = report_of(rows, assumptions=[*OWNED, *HOSTILE])
    page.write_text(html(report), encoding="utf-8")
    dom = dom_of(page)
    assert title_of(dom).startswith(f"mechtest: {len(rows)} of {len(rows)} claims are not as")
    assert re.search(r'<div id="tools" class="tools">', dom), "the page's script was not let in"
    assert dom.count("<img") == dom.count("<iframe") == 0


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here to look with")
def test_a_reader_searches_sorts_and_unfolds(tmp_path):
    page = tmp_path / "report.html"
    text = html(example_report())
    # The policy would refuse the reader's script, as the test above shows of any other.
    text = re.sub(r"<meta http-equiv[^>]*>", "", text).replace("</body>", READER)
    page.write_text(text, encoding="utf-8")
    every, gpu, found, again, rising, falling, back, folded = title_of(dom_of(page)).split("|")
    count = len(example_report()["claims"])
    assert every == again == ",".join(str(n + 1) for n in range(count))
    assert (len(gpu.split(",")), found) == (1, f"1 of {count} claims")
    way, _, order = rising.partition(" ")
    estimates = [_effect(text, number) for number in order.split(",")]
    known = [value for value in estimates if value is not None]
    assert (way, known) == ("ascending", sorted(known))
    assert None not in estimates[: len(known)], "claims without an effect come last"
    assert falling.startswith("descending ")
    assert _effect(text, falling.split()[1].split(",")[0]) in (max(known), None)
    assert back == f"null {every}"
    assert folded == "0"


def _effect(text, number):
    line = re.search(rf'<tr data-claim="{number}" .*?</tr>', text, re.S)[0]
    cell = re.search(r'data-label="effect">([^<]*)<', line)[1]
    return None if cell == "-" else float(cell.split()[0])
