from __future__ import annotations

import base64
import itertools
import re
import struct
import zlib
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import tables as synthetic
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from capmismatch._utils.files import write_table
from capmismatch.data.bank import bank_from_arrays, bank_in_memory, make_rows
from capmismatch.data.records import TeacherRecord
from capmismatch.errors import InputError
from capmismatch.findings import explain
from capmismatch.report import gallery, page_figures
from capmismatch.report import page as report_page
from capmismatch.report.narrative import TOPICS
from capmismatch.report.page import write_report
from capmismatch.report.page_tables import TOP_LINKS, links, probes, results
from capmismatch.selection.links import correlate
from capmismatch.selection.picking import pick
from capmismatch.study.study import Study
from capmismatch.study.tables import write_manifest_of_figures

EVIL = '<script>alert("x")</script>'
STUDY = f"""
name = '{EVIL}'
question = '"Which" teacher & why <b>so</b>?'
[data]
source = "letters"
[[family]]
source = "saved:here.npz"
"""
TAUGHT = """
[distill]
students = ["mlp12"]
[[distill.methods]]
name = "KD"
"""
VOID = {"meta", "img", "br", "link", "wbr"}


class Page(HTMLParser):
    """What the tests ask of a page: its elements with attributes and texts, nesting checked."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.texts.append("")
        if tag not in VOID:
            self.open.append((tag, len(self.texts) - 1))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for _, place in self.open:
            self.texts[place] += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def text_of(self, tag):
        return [text for (name, _), text in zip(self.elements, self.texts, strict=True) if name == tag]

    def cells(self, name):
        """Header and rows of a table, by the id of its heading."""
        start = next(i for i, (_, attributes) in enumerate(self.elements) if attributes.get("id") == name)
        place = next(i for i in range(start, len(self.elements)) if self.elements[i][0] == "table")
        rows = []
        for (tag, _), text in zip(self.elements[place + 1 :], self.texts[place + 1 :], strict=True):
            if tag == "table":
                break
            if tag == "tr":
                rows.append([])
            if tag in ("th", "td"):
                rows[-1].append(text)
        return rows[0], rows[1:]


def png(width=4, height=3):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    body = zlib.compress(b"".join(b"\0" + b"\x80" * 3 * width for _ in range(height)))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def renamed(frame):
    """The tables with a teacher whose name is meant to break the page."""
    return frame.replace("mlp1024", '"><img src=x onerror=alert(1)>')


NAMES = ("zebra", "capacity_curve%20mlp12", "ranks_later", "variance_vs_capacity")


def list_figures(folder, names):
    """Write the manifest of what `Study.plot` has drawn."""
    write_manifest_of_figures(folder, "", [folder / f"{name}.png" for name in names])


@pytest.fixture(scope="module")
def tables():
    probed, taught = (
        synthetic.probes_table(splits=("val", "test")),
        synthetic.results_table(students=("mlp12", "mlp24")),
    )
    made = {
        "probes": probed,
        "results": taught,
        "ranks": synthetic.ranks_table(),
        "affinity": synthetic.affinity_table(),
        "restored": synthetic.restored_table(),
        "links": correlate(probed, taught, expected_signs={}, n_boot=20),
    }
    return {name: renamed(frame) for name, frame in made.items()}


@pytest.fixture
def make(tmp_path, monkeypatch, tables):
    """Make a study's folder with some of the tables, and figures."""
    bank = bank_from_arrays({"t": np.eye(4)}, [0, 1, 2, 3], split=["val", "val", "test", "test"])
    monkeypatch.setattr(Study, "bank", property(lambda self: bank))

    def study(names=tuple(tables), toml=STUDY + TAUGHT, figures=("variance_vs_capacity", "capacity_curve%20mlp12")):
        (tmp_path / "study.toml").write_text(toml, encoding="utf-8")
        for name in names:
            write_table(tmp_path / "tables" / f"{name}.parquet", tables[name])
        (tmp_path / "figures").mkdir()
        for name in figures:
            (tmp_path / "figures" / f"{name}.png").write_bytes(png())
        list_figures(tmp_path / "figures", figures)
        return Study(tmp_path / "study.toml")

    return study


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tables):
    """The page of a study with every table, and its source."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        bank = bank_from_arrays({"t": np.eye(4)}, [0, 1, 2, 3], split=["val", "val", "test", "test"])
        patch.setattr(Study, "bank", property(lambda self: bank))
        (folder / "study.toml").write_text(STUDY + TAUGHT, encoding="utf-8")
        for name, frame in tables.items():
            write_table(folder / "tables" / f"{name}.parquet", frame)
        (folder / "figures").mkdir()
        for name in (*NAMES, "drawn_before"):
            (folder / "figures" / f"{name}.png").write_bytes(png())
        list_figures(folder / "figures", NAMES)
        source = write_report(Study(folder / "study.toml")).read_text(encoding="utf-8")
    return Page(source), source


def undated(text):
    return re.sub(r"(Page written</th><td>)[^<]*", r"\1", text)


# The page ------------------------------------------------------------------------------------------------------------


def test_sections_come_in_order(whole):
    page, _ = whole
    ids = [attributes["id"] for attributes in page.all("section") if "id" in attributes]
    assert ids == ["answer", "shows", "tables", "figures", "repeat"]
    assert page.text_of("h2") == ["Answer", "What this study shows", "Tables", "More figures", "How to repeat it"]
    questions = [question for question, table in TOPICS.values() if table != "curves"]  # which this study lacks
    assert [title for title in page.text_of("h3") if title in questions] == questions


def test_the_answer_is_up_front(whole):
    page, _ = whole
    facts = dict(zip(page.text_of("dt"), page.text_of("dd"), strict=True))
    assert facts["Grade"] == "toss-up" and re.fullmatch(r"\d+ %", facts["P(best)"])
    assert re.fullmatch(r"\d+\.\d\d points", facts["Expected regret"])
    assert page.text_of("strong")[0] == '"><img src=x onerror=alert(1)>', "the teacher stands out"
    captions = page.text_of("figcaption")
    assert captions[0].startswith("Capacity curve mlp12.")
    assert {"Reasons", "Findings"} <= set(page.text_of("h3"))
    assert not any("mlp/" in text for text in page.text_of("li")), "without the family: the names are unique"
    assert any(text.startswith(f"CM007 {explain('CM007').title}. ") for text in page.text_of("li"))


def test_the_page_as_it_reads(whole, golden):
    """The one test of the whole text: all that a reader sees, less dates, versions, and the rows of long tables."""
    page, _ = whole
    kinds = ("h1", "h2", "h3", "p", "li", "dt", "dd", "caption", "figcaption")
    lines = [
        f"{tag}: {' '.join(text.split())}"
        for (tag, _), text in zip(page.elements, page.texts, strict=True)
        if tag in kinds and text.strip()
    ]
    for name in ("teachers", "students", "settings", "rules"):
        header, rows = page.cells(name)
        lines += [f"table {name}: " + " | ".join(cells) for cells in [header, *rows]]
    golden("page.txt", "\n".join(lines) + "\n")


def test_the_page_needs_no_other_file(whole):
    page, source = whole
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed")
        assert "src" not in attributes or attributes["src"].startswith("data:image/png;base64,")
        target = attributes.get("href", "#")
        assert target.startswith("#") or (tag == "a" and target.startswith("https://doi.org/"))
        assert "srcset" not in attributes and not any(name.startswith("on") for name in attributes)
    assert "@import" not in source and "url(" not in source
    policy = next(attributes["content"] for attributes in page.all("meta") if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'")


def test_the_page_is_accessible(whole):
    page, source = whole
    assert page.all("html") == [{"lang": "en"}]
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.elements:
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in ids, tag
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in ids
    assert all(len(attributes["alt"]) > 20 for attributes in page.all("img"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert {attributes["scope"] for attributes in page.all("th")} == {"col", "row"}
    assert "prefers-color-scheme: dark" in source and "@media print" in source and "width=device-width" in source


@pytest.mark.parametrize("scheme", [0, 1])
def test_colours_have_contrast(whole, scheme):
    """WCAG 2 AA: 4.5 to 1 for every text colour on both grounds."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return np.dot(linear, [0.2126, 0.7152, 0.0722])

    style = re.findall(r":root \{([^}]*)\}", whole[1])[scheme]
    colours = dict(re.findall(r"--(\w+): (#\w{6});", style))
    for text in ("text", "soft", "link", "mark"):
        for ground in ("ground", "tint"):
            dark, light = sorted([luminance(colours[text]), luminance(colours[ground])])
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)


def test_what_users_wrote_is_escaped(whole):
    page, source = whole
    assert len(page.all("script")) == 1
    assert page.text_of("h1") == [EVIL]
    assert page.text_of("title") == [f"{EVIL}: capmismatch report"]
    assert '"Which" teacher & why <b>so</b>?' in page.text_of("p")
    assert not page.all("b") and "onerror" not in {name for _, attributes in page.elements for name in attributes}
    assert '"><img src=x onerror=alert(1)>' in {row[0] for row in page.cells("teachers")[1]}
    assert EVIL not in source
    assert page.text_of("pre") == [STUDY + TAUGHT]


def test_figures_come_in_the_gallerys_order_with_captions(whole):
    page, _ = whole
    captions = page.text_of("figcaption")
    assert [caption.split(".")[0] for caption in captions] == [
        "Capacity curve mlp12",
        "Variance vs capacity",
        "Ranks later",
        "Zebra",
    ]
    assert captions[1].endswith("by temperature."), "the first sentence of the caption"
    assert base64.b64decode(page.all("img")[0]["src"].split(",")[1]) == png()
    assert "figures/capacity_curve%20mlp12.csv" in page.all("img")[0]["alt"]


def test_points_of_a_figure_have_titles_on_the_page(make, monkeypatch):
    points = ((1, 2, "<mlp12>: 0.71"), (3, 1, "mlp24: 0.72"))
    monkeypatch.setattr(page_figures, "_points", lambda picture: points)
    source = write_report(make()).read_text(encoding="utf-8")
    assert source.count("<title>&lt;mlp12&gt;: 0.71</title>") == 2 and 'cx="3" cy="1"' in source


def test_short_names_of_figures_are_told_in_full(make):
    study = make([], figures=("rank_matrix", "broken"))
    about = PngInfo()
    about.add_text("Description", "large…336 = vit_large_patch14_clip_336\n<b> = <b>old</b> = new")
    Image.new("RGB", (4, 3)).save(study.folder / "figures" / "rank_matrix.png", pnginfo=about)
    (study.folder / "figures" / "broken.png").write_bytes(b"half a picture")
    page = Page(write_report(study).read_text(encoding="utf-8"))
    facts = dict(zip(page.text_of("dt"), page.text_of("dd"), strict=True))
    assert facts["large…336"] == "vit_large_patch14_clip_336" and facts["<b>"] == "<b>old</b> = new"


def test_a_figure_drawn_by_the_gallery_calls_teachers_as_all_others_do(make, monkeypatch):
    """A name that two families share carries its family, though the other family's teacher is not in the figure."""
    rng, labels = np.random.default_rng(0), np.arange(20) % 5
    teachers = [("A", "resnet20", 2e5), ("A", "resnet56", 8e5), ("B", "resnet20", 1e5)]
    bank = bank_in_memory(
        make_rows("pets", labels, list("abcde"), split=["val"] * 10 + ["test"] * 10),
        [
            (TeacherRecord(*who, params=int(size)), 6 * np.eye(5)[labels] + rng.normal(size=(20, 5)))
            for *who, size in teachers
        ],
    )
    monkeypatch.setattr(Study, "bank", property(lambda self: bank))
    axes = gallery._dark_knowledge(make([], figures=()))
    assert [ax.get_title().split("\n")[0] for ax in axes] == ["B/resnet20", "resnet56"], "the smallest, the largest"


def test_printed_heads_stand_on_each_page(whole):
    """A browser repeats a table's head only where it can be laid out anew, which a button cannot."""
    rules = whole[1].partition("@media print")[2]
    assert re.search(r"thead button \{ display: contents; \}", rules) and "table-header-group" in rules
    assert re.search(r"figure, thead, tr[^{]*\{ break-inside: avoid; \}", rules)


def test_what_a_statement_is_about_stands_out():
    told = report_page._with_lead("Student <cnn>, KD: accuracy is 0.7 [0.6, 0.8]: more.")
    assert told == (
        '<strong>Student &lt;cnn&gt;, KD:</strong> accuracy is 0.7 <span class="interval">[0.6, 0.8]</span>: more.'
    )
    for text in ("It is 0.7 [0.6, 0.8]: more.", "One. Two: three.", "nothing to mark"):
        assert "<strong>" not in report_page._with_lead(text)


def test_codes_are_explained_where_they_link(whole):
    page, _ = whole
    used = {attributes["href"][1:] for attributes in page.all("a") if attributes.get("class") == "code"}
    glossary = [text.split()[0] for text in page.text_of("dt") if text.startswith("CM0")]
    assert used and used <= set(glossary) and glossary == sorted(set(glossary))


def test_what_is_needed_to_repeat_it(whole):
    page, _ = whole
    facts = dict(zip(page.text_of("th")[-30:], page.text_of("td")[-30:], strict=True))
    iso = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00"
    assert re.fullmatch(iso, facts["Page written"]) and re.fullmatch(iso, facts["Table links written"])
    assert facts["Package numpy"] == np.__version__ and facts["Package pandas"] == pd.__version__
    assert facts["Seeds of students"] == "0, 1, 2" and facts["Seeds of teachers"] == "0, 1"
    assert {"Python", "Platform", "Seed of the data's split"} <= set(facts)
    assert "capmismatch run study.toml" in page.text_of("code")


def test_another_folder_is_part_of_the_command(make, tmp_path):
    study = Study(make().file, tmp_path / "else where")
    assert report_page._commands(study)[1][0] == "capmismatch run study.toml --folder 'else where'"


# Tables --------------------------------------------------------------------------------------------------------------


def test_derived_columns_stand_beside_confidence_and_inherent_variance(whole):
    page, _ = whole
    for name in ("probes-tau-1", "probes-tau-4", "restored"):
        header, rows = page.cells(name)
        place = header.index("derived std")
        assert header[place - 2 : place + 2] == ["p_y", "inherent variance", "derived std", "derived variance"]
        assert len(rows) == (24 if name == "restored" else 8)


def test_teachers_come_first_by_how_good_and_how_sure(whole):
    header, rows = whole[0].cells("teachers")
    assert header[:8] == [
        *("teacher", "student accuracy (%)", "95 % interval", "P(best) (%)", "regret (points)", "within 0.3 (%)"),
        *("tie", "params"),
    ]
    first = dict(zip(header[:8], rows[0], strict=False))
    assert re.fullmatch(r"\d\d\.\d\d", first["student accuracy (%)"])
    assert re.fullmatch(r"\[\d\d\.\d\d, \d\d\.\d\d\]", first["95 % interval"])
    titles = [attributes.get("title", "") for attributes in whole[0].all("button")]
    assert any("Probability of being the best" in title for title in titles), "column names say what they mean"


def test_what_is_long_is_folded(whole):
    """Each question has its headline and one picture in sight; statements and other tables are folded."""
    page, _ = whole
    folds = page.text_of("details")
    assert all(
        any(statement in fold for fold in folds)
        for statement in page.text_of("li")
        if " correlates with accuracy by" in statement
    )
    assert len(page.all("details")) > 15 and not any("open" in attributes for attributes in page.all("details"))
    assert all(
        len(attributes["class"].split()) for attributes in page.all("p") if attributes.get("class") == "headline"
    )


def test_cells_sort_by_their_numbers(whole, tables):
    page, source = whole
    header, rows = page.cells("teachers")
    assert {row[header.index("params")] for row in rows} >= {"648", "1,091,584"}
    assert 'data-key="1091584.0">1,091,584<' in source
    names = [
        "teachers",
        "students",
        "settings",
        "rules",
        "probes",
        "probes-tau-1",
        "probes-tau-4",
        "links",
        "ranks",
        "restored",
        "results",
    ]
    heads = [attributes for attributes in page.all("button") if attributes.get("class") != "picture"]
    assert len(heads) == sum(len(page.cells(name)[0]) for name in names)


def test_results_table_holds_means_and_deviations(whole, tables):
    header, rows = whole[0].cells("results")
    frame = tables["results"]
    chosen = frame[
        frame["label"].eq("KD tau=4")
        & frame["student"].eq("mlp24")
        & frame["split"].eq("test")
        & frame["teacher"].eq("mlp384")
    ]["accuracy"]
    row = next(row for row in rows if row[:3] == ["mlp24", "KD tau=4", "mlp384"])
    found = dict(zip(header, row, strict=True))
    assert found["test accuracy (%)"] == f"{100 * chosen.mean():.2f}"
    assert found["test SD (points)"] == f"{100 * chosen.std(ddof=1):.2f}"
    assert found["test runs"] == "3"
    assert ["mlp12", "CE", ""] in [row[:3] for row in rows]


def test_links_of_derived_probes_bring_their_companions(tables):
    table = links(tables["links"])
    names = [column.name for column in table.columns]
    place = {name: names.index(name) for name in ("student", "label", "tau", "probe")}
    keys = [tuple(row[i].text for i in place.values()) for row in table.rows]
    assert len(keys) == len(set(keys)) >= TOP_LINKS
    derived = [key for key in keys if key[-1] in ("derived_std", "derived_variance")]
    assert derived
    for key in derived:
        assert {(*key[:-1], "target_prob"), (*key[:-1], "inherent_variance")} <= set(keys)


def test_derived_probes_are_dropped_without_companions(tables):
    alone = tables["probes"][tables["probes"]["probe"].ne("target_prob")]
    (_, at_four) = probes(alone, [4.0])
    names = [column.name for column in at_four.columns]
    assert "derived_std" not in names and "inherent_variance" in names
    assert not {"derived_std", "derived_variance"} & {
        row[2].text for row in links(tables["links"].query("probe != 'target_prob'")).rows
    }


def test_results_of_one_split():
    table = results(synthetic.results_table(seeds=1).query("split == 'test'"))
    assert [column.name for column in table.columns[-3:]] == ["accuracy_test", "sd_test", "runs_test"]
    assert table.rows[0][-2].text == "–" and table.rows[0][-2].key == ""


# Studies that lack something -----------------------------------------------------------------------------------------


def test_a_study_without_results(make):
    page = Page(write_report(make(["probes", "ranks", "restored"], toml=STUDY)).read_text(encoding="utf-8"))
    titles = page.text_of("h3")
    left_out = [question for question, needs in TOPICS.values() if needs in ("results", "links")]
    assert not set(left_out) & set(titles) and "Left out" in titles
    assert not {"Links", "Students", "Students' results"} & set(titles)
    (absent,) = [text for text in page.text_of("li") if text.startswith("There is no table of results")]
    assert all(question in absent for question, needs in TOPICS.values() if needs == "results")
    assert "capmismatch distill" not in absent
    facts = dict(zip(page.text_of("dt"), page.text_of("dd"), strict=True))
    assert "P(best)" not in facts
    assert any("based on the rule 'lowest nll'" in text for text in page.text_of("p"))


def test_a_study_without_students_yet_says_what_to_run(make):
    study = make(["probes"])
    missing = {table.table: table.command for table in report_page._missing(study, {"probes": study.load("probes")})}
    stages = {"ranks": "ranks", "restored": "isats", "results": "distill", "links": "correlate"}
    assert missing == {table: f"capmismatch {stage} study.toml" for table, stage in stages.items()}
    assert all(command in write_report(study).read_text(encoding="utf-8") for command in missing.values())


def test_a_study_without_anything(make):
    page = Page(write_report(make([], figures=())).read_text(encoding="utf-8"))
    assert "Grade" not in page.text_of("dt")
    assert not page.all("img") and "Tables" not in page.text_of("h2")
    assert len([text for text in page.text_of("li") if "There is no table of" in text]) == 5


def test_a_pick_that_fails_is_reported(make, monkeypatch):
    def fail(self):
        raise InputError("no teacher has <both>")

    monkeypatch.setattr(Study, "choice", fail)
    page = Page(write_report(make()).read_text(encoding="utf-8"))
    assert any("no teacher has <both>" in text for text in page.text_of("p"))
    assert "Teachers" not in page.text_of("h3") and "Class ranks" in page.text_of("h3")


def test_only_the_date_differs_and_the_pick_is_made_once(make, monkeypatch):
    study, calls, choice = make(), [], Study.choice
    monkeypatch.setattr(Study, "choice", lambda self: calls.append(1) or choice(self))
    first = write_report(study).read_text(encoding="utf-8")
    second = write_report(study).read_text(encoding="utf-8")
    assert len(calls) == 2
    assert undated(first) == undated(second)


def test_a_failure_leaves_the_old_page(make, monkeypatch):
    study = make(["ranks"])
    old = write_report(study).read_bytes()
    write_table(study.folder / "tables" / "ranks.parquet", pd.DataFrame({"value": [1.0]}))
    with pytest.raises(InputError, match="the ranks table lacks the columns"):
        write_report(study)
    assert (study.folder / "report.html").read_bytes() == old
    assert [file.name for file in study.folder.glob(".report*")] == []


def test_the_study_file_is_read_as_utf_8(make):
    study = make([], toml=STUDY.replace("letters", "Buchstaben: äöü 字"), figures=())
    assert "Buchstaben: äöü 字" in write_report(study).read_text(encoding="utf-8")


def test_a_method_without_a_temperature_has_none_on_the_page():
    results = synthetic.results_table()
    without = results[results["label"].isin(["DKD tau=4", "CE"])].assign(tau=np.nan)
    without = without.replace({"label": {"DKD tau=4": "DKD"}})
    probes = synthetic.probes_table(splits=("val", "test"))
    assert "Temperature" not in report_page._chosen(pick(probes, without, n_boot=50))
    with_tau = results[results["label"].isin(["KD tau=4", "CE"])]
    assert report_page._chosen(pick(probes, with_tau, n_boot=50))["Temperature"] == "4"
