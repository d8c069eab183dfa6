"""The gallery: what its page says, and how a real browser shows it at the widths of a desk and of a phone."""

import base64
import html
import json
import os
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from tests._support.study import write_scenes
from unigrpo.core.errors import UserError
from unigrpo.core.files import read_jsonl
from unigrpo.report.data.results import Folder
from unigrpo.report.data.samples import read_samples
from unigrpo.report.pages import gallery
from unigrpo.world.traces import Imperfection

RUNS = {"base": None, "sft": Imperfection(wrong_traces=0.5, paint_noise=0.5), "unigrpo": Imperfection(wrong_traces=0.4)}
PROMPTS = 7 * 4  # categories x prompts of each
BROWSER = shutil.which("chromium")
FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync --virtual-time-budget=20000 --dump-dom"

FRAME = """<!doctype html><body><iframe src="page.html" style="border:0;width:{width}px;height:900px"></iframe>
<script>onmessage = event => document.body.innerText = JSON.stringify(event.data)</script>"""
# Runs inside the page, once its images are there, and tells the frame around it what it finds. A browser's window has a
# least width, a frame none.
PROBE = r"""<script>
addEventListener("load", () => {
const all = selector => [...document.querySelectorAll(selector)], images = all("img");
const look = {width: innerWidth, scroll: document.documentElement.scrollWidth, out: [], cut: []};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), range = document.createRange();
while (walker.nextNode()) {
  if (walker.currentNode.parentElement.closest("script, style, select, [hidden]")) continue;
  range.selectNodeContents(walker.currentNode);
  for (const box of range.getClientRects())
    if (box.left < -0.5 || box.right > innerWidth + 0.5) look.out.push(walker.currentNode.textContent);
}
for (const element of all("body *"))
  if (element.scrollWidth > element.clientWidth + 1 && element.clientWidth) look.cut.push(element.outerHTML);
look.loaded = images.map(image => image.naturalWidth);
look.rows = new Set([...all("article")[0].querySelectorAll("img")].map(i => i.getBoundingClientRect().top)).size;
const shown = {};
for (const [name, category, a, b] of CHOICES) {
  form.category.value = category; form.a.value = a; form.b.value = b;
  form.a.dispatchEvent(new Event("change", {bubbles: true}));
  const seen = all("article").filter(article => article.checkVisibility());
  shown[name] = {
    images: seen.map(article => article.querySelector("img").getAttribute("src")),
    headings: all("h2").filter(head => head.checkVisibility()).map(head => head.textContent),
    said: form.querySelector("output").value,
    compared: all(".compared").length,
  };
}
form.a.focus();
parent.postMessage({...look, shown, focus: document.activeElement.name}, "*");
});
</script>"""
CHOICES = [
    ("all", "", "", ""),
    ("counting", "GenEval, counting", "", ""),
    ("changed", "", "sft", "unigrpo"),
    ("both", "GenEval, position", "sft", "unigrpo"),
    ("same", "", "sft", "sft"),
    ("half", "", "sft", ""),
]


def make(results, out):
    gallery.make(Folder(results), out, out.with_suffix(".html"))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("study") / "cpu"
    write_scenes(root, RUNS, per_tag=4)
    make(root, root / "gallery")
    return root


def verdicts(study, run):
    """Prompt id -> official verdict, read from the scores."""
    rows = [row for _, row in read_jsonl(study / "runs" / run / "seed0" / "scores.jsonl")]
    return {r["prompt_id"]: (r["metrics"].get("official", r["metrics"].get("ta")) == 1, r["reason"]) for r in rows}


# ------------------------------------------------------------------------------------------ what it says


def test_the_page_stands_alone_and_shows_every_run(study):
    page = (study / "gallery/index.html").read_text()
    sources = re.findall(r'src="([^"]+)"', page)
    assert len(sources) == len(set(sources)) == PROMPTS * len(RUNS)
    assert not re.search(r"https?:|//[a-z]", page)
    assert re.findall(r'<figure class="\w+" data-run="(\w+)">', page)[:3] == list(RUNS)
    first = np.load(study / "runs/unigrpo/seed0/samples/geneval.think.tuned/images.npy")[0]
    with Image.open(study / "gallery/images/unigrpo/geneval/geneval_eval-single_object-000.png") as picture:
        assert np.array_equal(np.asarray(picture), first)
    assert "not a rerun of BAGEL-7B" in page


def test_verdicts_and_reasons_are_those_of_the_scores(study):
    page = (study / "gallery/index.html").read_text()
    figures = re.findall(r'<figure class="(\w+)" data-run="(\w+)">(.*?)</figure>', page, re.DOTALL)
    assert len(figures) == PROMPTS * len(RUNS)
    for run in RUNS:
        found = {kind: sum((k, r) == (kind, run) for k, r, _ in figures) for kind in ("right", "wrong")}
        right = sum(correct for correct, _ in verdicts(study, run).values())
        assert found == {"right": right, "wrong": PROMPTS - right}
    reasons = sorted(line for run in RUNS for _, text in verdicts(study, run).values() for line in text.splitlines())
    shown = re.findall(r'<ul class="reason".*?</ul>', page, re.DOTALL)
    items = [html.unescape(item) for text in shown for item in re.findall(r"<li>(.*?)<", text)]
    assert sorted(items) == reasons


def test_words_are_marked_where_the_verdict_turned_on_them(study):
    page = (study / "gallery/index.html").read_text()
    main = page[page.index("<main>") :]
    samples = [s for run in RUNS for s in read_samples(Folder(study), run, "think", "tuned").values()]
    lines = [line for sample in samples for line in sample.plan or ()]
    for mark in ("plan", "paint"):
        expected = sorted(word for line in lines for word, m in line if m == mark)
        assert expected and sorted(re.findall(rf'<mark class="{mark}">(.*?)</mark>', main)) == expected


def test_the_single_file_is_the_page_with_its_images_inside(study):
    single, page = ((study / name).read_text() for name in ("gallery.html", "gallery/index.html"))
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', single)
    names = re.findall(r'src="([^"]+)"', page)
    assert [base64.b64decode(data) for data in found] == [(study / "gallery" / name).read_bytes() for name in names]
    assert re.sub(r'src="[^"]+"', "", single) == re.sub(r'src="[^"]+"', "", page)


def test_a_new_gallery_replaces_the_old_one(study, tmp_path):
    (tmp_path / "gallery").mkdir()
    (tmp_path / "gallery/stale.html").write_text("old")
    make(study, tmp_path / "gallery")
    assert sorted(p.name for p in (tmp_path / "gallery").iterdir()) == ["images", "index.html"]
    assert (tmp_path / "gallery/index.html").read_bytes() == (study / "gallery/index.html").read_bytes()


def test_a_prompt_that_a_run_lacks_says_so(study, tmp_path):
    root = tmp_path / "cpu"
    shutil.copytree(study / "runs", root / "runs")
    manifest = root / "runs/sft/seed0/samples/ta.think.tuned/manifest.jsonl"
    manifest.write_text(manifest.read_text().splitlines()[0] + "\n")
    make(root, root / "gallery")
    page = (root / "gallery/index.html").read_text()
    assert page.count("not available") == PROMPTS // 7 - 1 and page.count("<figure") == PROMPTS * len(RUNS)


def test_it_needs_samples(tmp_path):
    with pytest.raises(UserError, match="no run has samples"):
        make(tmp_path, tmp_path / "gallery")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------ how it looks


@pytest.fixture(scope="module", params=[1280, 390])
def seen(request, study, tmp_path_factory):
    """What a browser finds on the page at this width."""
    if BROWSER is None:
        pytest.skip("no chromium on the path: the page is not looked at with a browser")
    width, home = request.param, tmp_path_factory.mktemp("browser")
    site = shutil.copytree(study / "gallery", home / "gallery")
    page = (site / "index.html").read_text().replace('loading="lazy"', "")
    (site / "page.html").write_text(page.replace("</html>", PROBE.replace("CHOICES", json.dumps(CHOICES)) + "</html>"))
    (site / "frame.html").write_text(FRAME.format(width=width))
    command = [
        BROWSER,
        *FLAGS.split(),
        f"--user-data-dir={home}",
        "--window-size=1400,1000",
        f"file://{site}/frame.html",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ | {"HOME": str(home)})
    found = re.search(r"<body>({.*})", done.stdout, re.DOTALL)
    assert found, f"the page told nothing: {done.stdout[-500:]} {done.stderr[-500:]}"
    told = json.loads(html.unescape(found[1]))
    assert told["width"] == width
    return told


def test_every_image_loads(seen):
    assert seen["loaded"] == [48] * PROMPTS * len(RUNS)


def test_nothing_is_cut_or_overflows(seen):
    assert seen["scroll"] <= seen["width"]
    assert seen["out"] == [] and seen["cut"] == []


def test_runs_stand_side_by_side_on_a_desk_and_below_each_other_on_a_phone(seen):
    assert seen["rows"] == (1 if seen["width"] == 1280 else len(RUNS))


def test_filters_show_what_they_promise(seen, study):
    before, after = verdicts(study, "sft"), verdicts(study, "unigrpo")
    ids = {
        f"images/base/{prompt.split('_')[0]}/" + re.sub(r"[^A-Za-z0-9_-]+", "-", prompt) + ".png": prompt
        for prompt in before
    }
    shown = {name: {ids[i] for i in found["images"]} for name, found in seen["shown"].items()}
    changed = {p for p in ids.values() if before[p][0] != after[p][0]}
    assert changed != set(ids.values()) and {after[p][0] for p in changed} == {True, False}
    assert shown["all"] == shown["half"] == set(ids.values()) and shown["changed"] == changed
    assert shown["counting"] == {p for p in ids.values() if "/counting/" in p}
    assert shown["both"] == {p for p in changed if "/position/" in p} and shown["same"] == set()
    assert seen["shown"]["counting"]["headings"] == ["GenEval, counting"] and seen["shown"]["same"]["headings"] == []
    gained = sum(after[p][0] for p in changed)
    said = f"{len(changed)} of {PROMPTS} prompts: {gained} right only in UniGRPO, "
    said += f"{len(changed) - gained} right only in SFT"
    assert seen["shown"]["changed"]["said"] == said and seen["shown"]["changed"]["compared"] == 2 * PROMPTS
    assert "choose a second run" in seen["shown"]["half"]["said"] and seen["shown"]["all"]["compared"] == 0
    assert seen["focus"] == "a"
