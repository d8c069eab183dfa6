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

from tests._support.study import write_jsonl, write_scenes
from unigrpo.core.errors import UserError
from unigrpo.core.files import read_jsonl
from unigrpo.core.settings import replace
from unigrpo.report.data.results import Folder
from unigrpo.report.data.samples import read_samples
from unigrpo.report.pages import gallery
from unigrpo.study import resolve
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
for (const element of all("body *:not(input)"))
  if (element.scrollWidth > element.clientWidth + 1 && element.clientWidth) look.cut.push(element.outerHTML);
look.loaded = images.map(image => image.naturalWidth);
look.rows = new Set([...all("article")[0].querySelectorAll("img")].map(i => i.getBoundingClientRect().top)).size;
const shown = {};
for (const [name, category, a, b] of CHOICES) {
  form.category.value = category; form.a.value = a; form.b.value = b;
  form.a.dispatchEvent(new Event("input", {bubbles: true}));
  const seen = all("article").filter(article => article.checkVisibility());
  shown[name] = {
    images: seen.map(article => article.querySelector("img").getAttribute("src")),
    headings: [...new Set(seen.map(article => article.dataset.category))],
    said: form.querySelector("output").value,
    compared: all(".compared").length,
  };
}
const names = () => all("article h2").map(head => head.textContent);
const cells = () => all("figure").filter(f => f.checkVisibility()).map(f => f.dataset.run + f.dataset.verdict);
const choose = (name, value) => {
  form.elements[name].value = value;
  form.elements[name].dispatchEvent(new Event("input", {bubbles: true}));
};
const orders = {};
for (const sort of ["", "+gold", "-gold", "disagreement"]) {
  choose("sort", sort);
  orders[sort] = all("article").map(article => article.querySelector("img").getAttribute("src"));
}
choose("sort", ""); choose("a", "");
choose("q", SEARCH);
const searched = {names: names(), hash: location.hash};
choose("q", ""); choose("run", "sft"); choose("verdict", "wrong");
const wrong = cells();
const hash = location.hash;
location.hash = "";
dispatchEvent(new Event("hashchange"));
const emptied = [names().length, form.run.value, form.verdict.value];
location.hash = hash;
dispatchEvent(new Event("hashchange"));
const again = cells();
form.a.focus();
look.labels = [...form.elements].every(element => element.labels?.length || element.tagName === "OUTPUT");
Object.assign(look, {orders, searched, wrong, hash, emptied, again});
parent.postMessage({...look, shown, focus: document.activeElement.name}, "*");
});
</script>"""
SEARCH = "CIRCLE  star"
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


def prompts(study, run="base"):
    """Prompt ids in the gallery's order."""
    return [prompt for _, prompt in read_samples(Folder(study), run, "think", "tuned")]


def verdicts(study, run):
    """Prompt id -> official verdict, read from the scores."""
    rows = [row for _, row in read_jsonl(study / "runs" / run / "seed0" / "scores.jsonl")]
    return {r["prompt_id"]: (r["metrics"].get("official", r["metrics"].get("ta")) == 1, r["reason"]) for r in rows}


def test_sets_of_a_group_lie_beside_their_scores(study, tmp_path, monkeypatch):
    shutil.copytree(study / "runs", tmp_path / "runs")
    for path in (tmp_path / "runs").glob("*/seed0"):
        (path / "samples").rename(path / "samples_far")
        (path / "scores.jsonl").rename(path / "samples_far" / "scores.jsonl")
    far = {"geneval": replace(resolve.benchmarks()["geneval"], group="far")}
    monkeypatch.setattr(resolve, "benchmarks", lambda: far)
    found = read_samples(Folder(tmp_path, chosen=[*far]), "sft", "think", "tuned")
    monkeypatch.undo()
    there = read_samples(Folder(study, chosen=["geneval"]), "sft", "think", "tuned")
    assert {key: (s.correct, s.reason) for key, s in found.items()} == {
        k: (s.correct, s.reason) for k, s in there.items()
    }
    assert {sample.correct for sample in found.values()} == {True, False}


# ------------------------------------------------------------------------------------------ what it says


def test_the_page_stands_alone_and_shows_every_run(study):
    page = (study / "gallery/index.html").read_text()
    sources = re.findall(r'src="([^"]+)"', page)
    assert len(sources) == len(set(sources)) == PROMPTS * len(RUNS)
    assert not re.search(r"https?:|//[a-z]", page)
    assert re.findall(r'<figure class="[\w ]+" data-run="(\w+)"', page)[:3] == list(RUNS)
    first = np.load(study / "runs/unigrpo/seed0/samples/geneval.think.tuned/images.npy")[0]
    place = prompts(study).index("geneval_eval/single_object/000")
    with Image.open(study / "gallery" / f"images/2/{place}.png") as picture:
        assert np.array_equal(np.asarray(picture), first)
    assert "not a rerun of BAGEL-7B" in page


def test_verdicts_and_reasons_are_those_of_the_scores(study):
    page = (study / "gallery/index.html").read_text()
    figures = re.findall(r'<figure class="(\w+)(?: disputed)?" data-run="(\w+)"(.*?)</figure>', page, re.DOTALL)
    assert len(figures) == PROMPTS * len(RUNS)
    for run in RUNS:
        found = {kind: sum((k, r) == (kind, run) for k, r, _ in figures) for kind in ("right", "wrong")}
        right = sum(correct for correct, _ in verdicts(study, run).values())
        assert found == {"right": right, "wrong": PROMPTS - right}
    reasons = sorted(line for run in RUNS for _, text in verdicts(study, run).values() for line in text.splitlines())
    shown = re.findall(r'<ul class="reason".*?</ul>', page, re.DOTALL)
    items = [html.unescape(item) for text in shown for item in re.findall(r"<li>(.*?)<", text)]
    assert sorted(items) == reasons


def test_images_are_marked_on_which_the_instruments_disagree(study, tmp_path):
    shutil.copytree(study, tmp_path / "cpu")
    path = tmp_path / "cpu/runs/sft/seed0/scores.jsonl"
    rows = [row for _, row in read_jsonl(path)]
    for number, metrics in enumerate(row["metrics"] for row in rows):
        verdict = metrics.get("official", metrics.get("ta"))
        metrics["second"] = verdict if number % 3 else 1 - verdict
    write_jsonl(path, rows)
    make(tmp_path / "cpu", tmp_path / "gallery")
    page = (tmp_path / "gallery/index.html").read_text()
    marked = re.findall(r'<figure class="\w+ disputed" data-run="(\w+)".*? ≠</span>', page, re.DOTALL)
    assert marked == ["sft"] * -(-len(rows) // 3) and page.count(" ≠</span>") == len(marked)


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


def test_pictures_are_called_by_place_whatever_their_ids(study, tmp_path):
    """Ids that a file name cannot hold, or that cleaning makes equal, each keep their picture."""
    root = tmp_path / "cpu"
    shutil.copytree(study / "runs/sft", root / "runs/sft")
    samples, scores = root / "runs/sft/seed0/samples/geneval.think.tuned", root / "runs/sft/seed0/scores.jsonl"
    rows = [row for _, row in read_jsonl(samples / "manifest.jsonl")]
    odd = ["红色圆", "蓝色星", "a b", "a-b", "a/b", "a%20b", "A B", "../x", "#1", "?q", "a" * 300, "a\\b"]
    renamed = dict(zip([row["prompt_id"] for row in rows], odd, strict=False))
    for path in (samples / "manifest.jsonl", scores):
        each = [row for _, row in read_jsonl(path)]
        path.write_text(
            "".join(json.dumps(r | {"prompt_id": renamed.get(r["prompt_id"], r["prompt_id"])}) + "\n" for r in each)
        )
    make(root, root / "gallery")
    page = (root / "gallery/index.html").read_text()
    sources = re.findall(r'src="([^"]+)"', page)
    assert len(sources) == len(set(sources)) == PROMPTS == len(list((root / "gallery").rglob("*.png")))
    assert all(re.fullmatch(r"images/0/\d+\.png", source) for source in sources)
    arrays = np.load(samples / "images.npy")
    texts = re.findall(r"<h2>(.*?)</h2>", page)
    for number, row in enumerate(rows, start=prompts(root, "sft").index(odd[0])):
        with Image.open(root / "gallery" / sources[number]) as picture:
            assert np.array_equal(np.asarray(picture), arrays[row["index"]])
        assert html.unescape(texts[number]) == row["prompt"]


def test_runs_are_the_catalogues_in_its_order_and_others_are_named(study, tmp_path):
    root = tmp_path / "cpu"
    shutil.copytree(study / "runs", root / "runs")
    shutil.copytree(study / "runs/sft", root / "runs/an_old_run")
    (root / "runs/.ipynb_checkpoints").mkdir()
    (root / "runs/sft/seed0.bak").mkdir()
    make(root, root / "gallery")
    page = (root / "gallery/index.html").read_text()
    assert list(dict.fromkeys(re.findall(r'data-run="(\w+)"', page))) == list(RUNS)
    assert page.count("Not in the catalogue, and not shown: an_old_run.") == 1
    assert "Not in the catalogue" not in (study / "gallery/index.html").read_text()


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
    (site / "page.html").write_text(
        page.replace(
            "</html>", PROBE.replace("CHOICES", json.dumps(CHOICES)).replace("SEARCH", json.dumps(SEARCH)) + "</html>"
        )
    )
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


def test_it_is_sorted_searched_and_linked_to(seen, study):
    scores = [read_samples(Folder(study), run, "think", "tuned").values() for run in RUNS]
    gold = np.mean([[s.scores["gold"] for s in each] for each in scores], axis=0)
    right = np.mean([[s.correct for s in each] for each in scores], axis=0)
    numbers = {name: [int(re.search(r"(\d+).png", s)[1]) for s in sources] for name, sources in seen["orders"].items()}
    assert numbers[""] == list(range(PROMPTS))
    assert numbers["+gold"] == np.argsort(gold, kind="stable").tolist()
    assert numbers["-gold"] == np.argsort(-gold, kind="stable").tolist()
    spread = [round(right[k] * (1 - right[k]), 6) for k in numbers["disagreement"]]
    assert spread == sorted(spread, reverse=True) and spread[0] > spread[-1]
    found = read_samples(Folder(study), "base", "think", "tuned").values()
    texts = [s.prompt for s in found if "circle" in s.prompt and "star" in s.prompt]
    assert texts and set(texts) <= set(seen["searched"]["names"]) and len(seen["searched"]["names"]) < PROMPTS
    assert seen["searched"]["hash"] == "#q=CIRCLE++star"
    wrong = sum(not correct for correct, _ in verdicts(study, "sft").values())
    assert seen["wrong"] == seen["again"] == ["sftwrong"] * wrong and seen["hash"] == "#run=sft&verdict=wrong"
    assert seen["emptied"] == [PROMPTS, "", ""] and seen["labels"]


PAGES = r"""<script>
addEventListener("load", () => {
const [previous, next] = document.querySelectorAll("nav button"), told = [];
const tell = () => told.push([document.querySelectorAll("article").length, document.querySelector("h2").textContent,
  document.querySelector("nav output").value, location.hash, previous.disabled, next.disabled]);
tell(); next.click(); tell(); next.click(); tell();
document.body.innerText = JSON.stringify({told});
});
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="no chromium on the path")
def test_a_large_gallery_is_paged(study, tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "PAGE", 12)  # of 28 prompts
    make(study, tmp_path / "gallery")
    page = tmp_path / "gallery.html"
    page.write_text(page.read_text().replace("</html>", PAGES + "</html>"))
    command = [BROWSER, *FLAGS.split(), f"--user-data-dir={tmp_path}/home", f"file://{page}#page=2"]
    environment = os.environ | {"HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    found = re.search(r"<body>({.*})", done.stdout, re.DOTALL)
    assert found, done.stdout[-2500:]
    told = json.loads(html.unescape(found[1]))["told"]
    heads = [html.unescape(head) for head in re.findall(r"<h2>(.*?)</h2>", page.read_text())]
    assert told[0] == [12, heads[12], "page 2 of 3", "#page=2", False, False]
    assert told[1] == told[2] == [4, heads[24], "page 3 of 3", "#page=3", False, True]


def test_filters_show_what_they_promise(seen, study):
    before, after = verdicts(study, "sft"), verdicts(study, "unigrpo")
    ids = {f"images/0/{number}.png": prompt for number, prompt in enumerate(prompts(study))}
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
    assert seen["shown"]["changed"]["said"] == said and seen["shown"]["changed"]["compared"] == 2 * len(changed)
    assert "choose a second run" in seen["shown"]["half"]["said"] and seen["shown"]["all"]["compared"] == 0
    assert seen["focus"] == "a"
