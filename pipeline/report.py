"""The result for the eye: one HTML file without script and without anything from elsewhere.

Everything is made from the content of `result.json` alone. Names and levels
come from users, so each text passes `_text`; a policy in the head forbids the
browser whatever that might miss.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from pipeline import plots
from pipeline.pins import in_groups
from pipeline.plots import NARROW, STYLES, WIDE, Dot, Line, Mark, Words
from pipeline.report_style import STYLE
from pipeline.results import (
    COEFFICIENTS_FILE,
    PATH_FILE,
    RESULT_FILE,
    coefficients_csv,
    path_csv,
    result_text,
    write_files,
)

REPORT_FILE = "report.html"
OUTPUT_FILES = (RESULT_FILE, COEFFICIENTS_FILE, PATH_FILE, REPORT_FILE)
DIGITS = 5  # significant ones in a table
DOTS = 40  # a plot of coefficients shows so many
MISSING = "–"
INTERCEPT = "(intercept)"
BREAKS, BREAK = re.compile(r"([._=/])"), r"\1<wbr>"

KINDS = {"lasso": "lasso", "elastic-net": "elastic net", "ridge": "ridge regression", "ols": "least squares"}
RULES = {
    "min": "that with the smallest cross-validated error",
    "1se": "the largest whose cross-validated error is within one standard error of the smallest",
    "aic": "that with the smallest value of Akaike's criterion (AIC)",
    "bic": "that with the smallest value of the Bayesian criterion (BIC)",
}
GATES = {
    "min_records": "matched records, at least",
    "min_residual_df": "records minus parameters, at least",
    "max_parameters_ratio": "parameters per record, at most",
    "min_level_count": "matched records in each level of a category, at least",
    "rare_levels": "a level with fewer",
    "max_r2": "R² (in-sample), at most",
}
ALLOWED = {
    "model": "models",
    "cv_curve": "cross-validated errors of all penalties",
    "cv_r2": "cross-validated R²",
    "standard_errors": "standard errors",
    "table1": "means and standard deviations of all columns",
    "refused_column": "the columns a refusal is about",
}
VALUES = {"chosen": "the chosen one", "path": "those of all penalties", "refuse": "ends the run", "drop": "is left out"}

Document = Mapping[str, Any]


def write_outputs(folder: Path, document: Document) -> Path:
    """Write `result.json` and, at a controller, what is made from it; returns the place of `result.json`.

    All files or none, the result last. Raises ConfigError, and then an earlier result is as it was.
    """
    texts, stale = {}, []
    if "coefficients" in document:
        texts = {COEFFICIENTS_FILE: coefficients_csv(document), REPORT_FILE: report_html(document)}
        if "path" in document:
            texts[PATH_FILE] = path_csv(document)
        else:
            stale = [PATH_FILE]
    return write_files(folder, texts | {RESULT_FILE: result_text(document)}, stale)[RESULT_FILE]


def write_report(folder: Path, document: Document) -> Path:
    """Write the report alone, whole or not at all, readable by its owner alone. Raises ConfigError."""
    return write_files(folder, {REPORT_FILE: report_html(document)})[REPORT_FILE]


def report_html(document: Document) -> str:
    """The report on a controller's result, as one HTML file."""
    title = f"{document['study']}: {KINDS.get(_kind(document), _kind(document))} for {document['outcome']}"
    sections = (
        _summary(document),
        _model(document),
        _fit(document),
        _coefficients(document),
        _path(document),
        _cross_validation(document),
        _inference(document),
        _table1(document),
        _notes(document),
        _opened(document),
        _own_rows(document),
        _run(document),
    )
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
            f"<title>{_text(title)}</title>",
            f"<style>{STYLE}</style>",
            "</head>",
            "<body>",
            "<main>",
            f"<h1>{_text(title)}</h1>",
            *(section for section in sections if section),
            "</main>",
            "</body>",
            "</html>",
            "",
        ]
    )


# --- the sections ---------------------------------------------------------------------------------


def _summary(document: Document) -> str:
    return _facts(
        [
            ("Study", _text(document["study"])),
            ("Model", _text(_model_words(document))),
            ("Outcome", _name(document["outcome"]) + (f" ({_text(unit)})" if (unit := _unit(document)) else "")),
            ("Matched records", f"{document['records']}"),
            ("Finished", _text(_time(document["finished"]))),
            ("Agreement", f'<span class="digest">{_text(in_groups(document["agreement"]))}</span>'),
        ]
    )


def _model(document: Document) -> str:
    coefficients = document["coefficients"]
    gone = "removed" if _kind(document) in ("lasso", "elastic-net") else "constant"
    terms = [
        (name, str(feature.get("unit") or ""), "" if coefficients[name] else gone)
        for feature in document["features"]
        for name in _feature_names(feature)
        if name in coefficients
    ]
    terms.insert(0, (INTERCEPT, "", ""))
    shown = [i for i in (1, 2) if any(term[i] for term in terms)]
    values = {INTERCEPT: document["intercept"], **coefficients}
    rows = [_Row(term[0], [values[term[0]]], [term[i] for i in shown], faint=bool(term[2])) for term in terms]
    headings = ["coefficient", *("unit of the feature" if i == 1 else "remark" for i in shown)]
    words = _model_remarks(document, gone)
    return _section("The model", _table("Model", "term", headings, rows), _paragraph(" ".join(words)))


def _unit(document: Document) -> str:
    """Of the outcome, if one is agreed."""
    return str(document.get("outcome_unit", ""))


def _model_remarks(document: Document, gone: str) -> list[str]:
    unit = _unit(document)
    words = [f"Coefficients are on the scale of the data{f': {unit} per unit of the feature' if unit else ''}."]
    if categories := [feature for feature in document["features"] if feature["kind"] == "category"]:
        references = "; ".join(f"{_name(_full(f))}: {_name(f['levels'][0])}" for f in categories)
        words.append(f"That of a level is the difference from the reference level of its category ({references}).")
    zeros = sum(value == 0.0 for value in document["coefficients"].values())
    if zeros and gone == "removed":
        words.append(
            f"{zeros} of {len(document['coefficients'])} coefficients are 0: the penalty removed them, or the feature"
            " is the same in all matched records."
        )
    elif zeros:
        words.append("A coefficient of 0 is that of a feature which is the same in all matched records.")
    return words


def _fit(document: Document) -> str:
    fit = document["fit"]
    rows = [
        _Row("R²", [fit["r2"]]),
        _Row("adjusted R²", [fit["adjusted_r2"]]),
        _Row("mean squared error", [fit["mse"]]),
        _Row("root mean squared error", [fit["rmse"]]),
        _Row("coefficients that are not 0", [fit["nonzero"]]),
    ]
    after = [_paragraph("These are in-sample: on new data the model does worse.")]
    if (r2 := document.get("cv", {}).get("r2")) is not None:
        held_out = f"On records held out ({document['cv']['folds']} folds), R² is <strong>{_number(r2)}</strong>"
        if document["model"].get("rule") in ("min", "1se"):
            held_out += ", a little too good, as these folds have chosen the penalty, too"
        after.append(_paragraph(f"{held_out}."))
    return _section("Fit, in-sample", _table("Fit", "measure", ["value"], rows), *after)


def _coefficients(document: Document) -> str:
    sds = {name: of["sd"] for name, of in document.get("table1", {}).items()}
    plain = _dots(document, {})
    if not plain:
        return ""
    about = "Coefficients that are not 0, sorted, as dots on a horizontal axis. All values are in the tables."
    interval = " The line is the 95 % interval; a hollow dot has 0 within it." if document.get("inference") else ""
    words = Words("coefficients", "Coefficients", about, "coefficient")
    count = sum(value != 0.0 for value in document["coefficients"].values())
    few = f" The {DOTS} largest of {count} are shown." if count > DOTS else ""
    note = (
        "On the scale of the data: a coefficient per year and one per euro cannot be compared by their lengths."
        f"{interval}{few}"
    )
    figures = [_figure(words, note, [plots.dot_plot(plain, words, size) for size in (WIDE, NARROW)])]
    scaled = _dots(document, sds) if sds else []
    if scaled:
        words = Words("scaled", "Coefficients times standard deviations", about, "coefficient × sd of the feature")
        note = (
            "Each coefficient times the standard deviation of its feature over the matched records: what one standard"
            f" deviation more of the feature does to the outcome. These can be compared.{interval}{few}"
        )
        figures.append(_figure(words, note, [plots.dot_plot(scaled, words, size) for size in (WIDE, NARROW)]))
    return _section("Coefficients", *figures)


def _path(document: Document) -> str:
    points = document.get("path", [])
    if not points:
        return ""
    alphas = [point["alpha"] for point in points]
    body = []
    if len(set(alphas)) > 1:
        body.append(_path_figure(document, points, alphas))
    means = dict(zip(document.get("cv", {}).get("alphas", ()), document.get("cv", {}).get("mean", ()), strict=False))
    rows = [
        _Row(_number(p["alpha"]), [p["nonzero"], p["r2"], p["intercept"], *([means.get(p["alpha"])] if means else [])])
        for p in points
    ]
    headings = ["not 0", "R² (in-sample)", "intercept", *(["cross-validated error"] if means else [])]
    table = _table("All penalties", "alpha", headings, rows, numbers_first=True)
    body.append(f"<details><summary>All {len(points)} penalties as a table</summary>{table}</details>")
    body.append(_paragraph("The coefficients of all penalties are in path.csv."))
    return _section("Path of the penalties", *body)


def _path_figure(document: Document, points: Sequence[Document], alphas: Sequence[float]) -> str:
    sds = {name: of["sd"] for name, of in document.get("table1", {}).items()}
    factor = {name: sds.get(name, 0.0) if sds else 1.0 for name in document["coefficients"]}
    values = {name: [p["coefficients"][name] * factor[name] for p in points] for name in document["coefficients"]}
    entering = [name for name, of in values.items() if any(of)]
    largest = sorted(entering, key=lambda name: (abs(values[name][-1]), max(map(abs, values[name]))), reverse=True)
    styles = {name: i + 1 for i, name in enumerate(largest[:STYLES])}
    lines = [Line(name, values[name], styles.get(name, 0)) for name in entering]
    value = "coefficient × sd of the feature" if sds else "coefficient"
    about = (
        f"Lines of {len(lines)} coefficients over {len(alphas)} penalties, from {alphas[0]:.4g} to {alphas[-1]:.4g}."
        " Those with the largest values at the right end are named; all values are in path.csv."
    )
    words = Words("path", "Coefficients by penalty", about, value)
    marks = _marks(document)
    note = (
        "Each coefficient times the standard deviation of its feature over the matched records."
        if sds
        else "On the scale of the data: lines of features with different units cannot be compared by their heights."
    )
    legend = _legend([*styles.items()], len(lines) - len(styles))
    pictures = [plots.path_plot(alphas, lines, marks, words, size) for size in (WIDE, NARROW)]
    return _figure(words, note, pictures, legend)


def _cross_validation(document: Document) -> str:
    cv = document.get("cv")
    if not cv:
        return ""
    rows = [_Row("folds", [cv["folds"]])]
    for key, text in (
        ("alpha_min", "alpha with the smallest error (min)"),
        ("alpha_1se", "largest alpha within one standard error of it (1se)"),
        ("r2", "R² on records held out"),
    ):
        if cv.get(key) is not None:
            rows.append(_Row(text, [cv[key]]))
    body = []
    mean, alphas = cv.get("mean", []), cv.get("alphas", [])
    half = cv.get("sd", [])
    if mean and len(set(alphas)) > 1:
        about = (
            f"Mean squared error on records held out, over {len(alphas)} penalties, with bars of one standard error."
            " All values are in the table."
        )
        words = Words("errors", "Cross-validated error by penalty", about, "mean squared error, held out")
        pictures = [plots.error_plot(alphas, mean, half, _marks(document), words, size) for size in (WIDE, NARROW)]
        body.append(_figure(words, f"Bars: one standard error of the mean over {cv['folds']} folds.", pictures))
    body.append(_table("Cross-validation", "measure", ["value"], rows))
    if mean:
        bars = half or [None] * len(mean)
        points = [_Row(_number(a), [m, h]) for a, m, h in zip(alphas, mean, bars, strict=True)]
        table = _table(
            "Cross-validated errors", "alpha", ["mean squared error", "standard error"], points, numbers_first=True
        )
        body.append(f"<details><summary>All {len(mean)} errors as a table</summary>{table}</details>")
    return _section("Cross-validation", *body)


def _inference(document: Document) -> str:
    inference = document.get("inference")
    if not inference:
        return ""
    estimates = {"intercept": document["intercept"], **document["coefficients"]}
    rows = []
    for name, of in inference.items():
        cells = [estimates.get(name), of["se"], of["low"], of["high"], _t_text(of["t"]), _p_text(of["p"])]
        rows.append(_Row(INTERCEPT if name == "intercept" else name, cells))
    headings = ["coefficient", "standard error", "95 % from", "95 % to", "t", "p"]
    note = "Intervals and p-values are of least squares with normal errors of equal variance, one term at a time."
    return _section("Standard errors", _table("Standard errors", "term", headings, rows), _paragraph(note))


def _table1(document: Document) -> str:
    table1 = document.get("table1")
    if not table1:
        return ""
    rows = [_Row(name, [of["mean"], of["sd"]]) for name, of in table1.items()]
    note = "Over the matched records. The mean of a level is its share of the records."
    headings = ["mean", "standard deviation"]
    return _section("Matched records", _table("Matched records", "column", headings, rows), _paragraph(note))


def _notes(document: Document) -> str:
    notes = document.get("notes", [])
    return _section("Notes", "<ul>" + "".join(f"<li>{_text(note)}</li>" for note in notes) + "</ul>") if notes else ""


def _opened(document: Document) -> str:
    body = []
    opened = document.get("opened", [])
    if opened:
        times = Counter((entry["name"], entry["to"]) for entry in opened)
        rows = [_Row(name, [count], [to]) for (name, to), count in times.items()]
        body.append(_table("What was opened", "value", ["times", "to"], rows))
        body.append(_paragraph("Nothing else was opened. docs/leakage.md says what each of these tells."))
    if "open" in document:
        rows = [_Row(ALLOWED.get(k, k), [], [_setting(v)]) for k, v in document["open"].items()]
        body += ["<h3>What the agreement allows to be opened</h3>", _table("Allowed", "part", ["allowed"], rows)]
    if "gate" in document:
        rows = [_Row(GATES.get(k, k), [], [_rule(v)]) for k, v in document["gate"].items()]
        body += ["<h3>What the agreement demands of a result</h3>", _table("Demanded", "rule", ["limit"], rows)]
    body.append(_paragraph("Nothing was refused in this run: a run that a rule refuses writes no result."))
    return _section("What was opened", *body)


def _own_rows(document: Document) -> str:
    own = document.get("own_rows")
    if own is None:
        return ""
    rows = [_Row("rows read", [own["read"]])]
    rows += [_Row(f"dropped, no value in {column}", [count]) for column, count in own["dropped"].items()]
    note = "Counts of this party's own table. A row without a value in several columns counts in each."
    return _section("Own rows", _table("Own rows", "what", ["rows"], rows), _paragraph(note))


def _run(document: Document) -> str:
    settings = [_Row(key, [], [_setting(value)]) for key, value in document["model"].items()]
    figures = [
        _Row("iterations", [document["iterations"]]),
        _Row("rounds", [document["rounds"]]),
        _Row("bits that hide what was opened under masks", [document["hiding_bits"]]),
        _Row("bytes sent", [document["sent_bytes"]]),
    ]
    figures += [_Row(f"seconds, {step}", [value]) for step, value in document["seconds"].items()]
    versions = [_Row(name, [], [str(version)]) for name, version in document["versions"].items()]
    return _section(
        "The run",
        "<h3>Settings</h3>",
        _table("Settings", "key", ["value"], settings),
        "<h3>Effort</h3>",
        _table("Effort", "what", ["value"], figures),
        "<h3>Versions</h3>",
        _table("Versions", "package", ["version"], versions),
    )


# --- what they have in common ---------------------------------------------------------------------


@dataclass(frozen=True)
class _Row:
    """`values` come before `texts`."""

    head: str
    values: Sequence[float | None] = ()
    texts: Sequence[str] = ()
    faint: bool = False


def _table(title: str, first: str, headings: Sequence[str], rows: Sequence[_Row], numbers_first: bool = False) -> str:
    """Numbers of a column have their decimal marks below one another."""
    columns = [_aligned([_number(v) for v in column]) for column in zip(*(row.values for row in rows), strict=True)]
    heads = _aligned([row.head for row in rows]) if numbers_first else [_name(row.head) for row in rows]
    kinds = ["number" if numbers_first else "", *["number"] * len(columns)]
    kinds += [""] * (1 + len(headings) - len(kinds))
    titles = "".join(_heading(text, kind) for text, kind in zip((first, *headings), kinds, strict=True))
    lines = [
        f'<div class="box" role="region" aria-label="{_text(title)}" tabindex="0"><table>',
        f"<thead><tr>{titles}</tr></thead>",
        "<tbody>",
    ]
    for row, head, *cells in zip(rows, heads, *columns, strict=True):
        start = '<tr class="faint">' if row.faint else "<tr>"
        scope = '<th scope="row" class="number">' if numbers_first else '<th scope="row">'
        tail = "".join(f'<td class="number">{cell}</td>' for cell in cells)
        tail += "".join(f"<td>{_text(text)}</td>" for text in row.texts)
        lines.append(f"{start}{scope}{head}</th>{tail}</tr>")
    return "\n".join([*lines, "</tbody></table></div>"])


def _heading(text: str, kind: str) -> str:
    return f'<th scope="col" class="{kind}">{_text(text)}</th>' if kind else f'<th scope="col">{_text(text)}</th>'


def _aligned(texts: Sequence[str]) -> list[str]:
    """Fill up behind the decimal mark with spaces as wide as a digit or a point."""
    behind = [text.partition(".")[2] for text in texts]
    widest = max((len(part) for part in behind), default=0)
    return [
        _text(text)
        + ("" if part or not widest else "\N{PUNCTUATION SPACE}")
        + "\N{FIGURE SPACE}" * (widest - len(part))
        for text, part in zip(texts, behind, strict=True)
    ]


def _number(value: float | str | None) -> str:
    """Five significant digits, or a whole number as it is; with powers of ten where it is very small or large."""
    if value is None or isinstance(value, str):
        return value or MISSING
    if isinstance(value, int) or value == 0.0:
        return f"{value:.0f}".replace("-", "−") if value else "0"
    magnitude = math.floor(math.log10(abs(value)))
    if not -5 <= magnitude < 9:
        return f"{value:.{DIGITS - 1}e}".replace("-", "−")
    return f"{value:.{max(0, DIGITS - 1 - magnitude)}f}".replace("-", "−")


def _t_text(t: float | None) -> str:
    return MISSING if t is None else f"{t:.2f}".replace("-", "−")


def _p_text(p: float | None) -> str:
    if p is None:
        return MISSING
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"


def _setting(value: object) -> str:
    """A setting in words; a float as it stands in the agreement."""
    match value:
        case bool():
            return "yes" if value else "no"
        case None:
            return MISSING
        case str():
            return VALUES.get(value, value)
        case Mapping():
            return ", ".join(f"{key}: {_setting(of)}" for key, of in value.items()) or MISSING
        case list():
            return ", ".join(map(_setting, value)) or MISSING
    return repr(value)


def _rule(value: object) -> str:
    return "switched off" if value is None or value is False else _setting(value)


def _section(title: str, *body: str) -> str:
    return "\n".join(["<section>", f"<h2>{_text(title)}</h2>", *body, "</section>"])


def _paragraph(words: str) -> str:
    """`words` are HTML already."""
    return f"<p>{words}</p>"


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<div><dt>{term}</dt><dd>{text}</dd></div>" for term, text in facts) + "</dl>"


def _figure(words: Words, note: str, pictures: Sequence[str], legend: str = "") -> str:
    caption = f"<figcaption><strong>{_text(words.title)}.</strong> {_text(note)}</figcaption>"
    return f"<figure>{caption}\n{chr(10).join(pictures)}\n{legend}</figure>"


def _legend(styles: Sequence[tuple[str, int]], others: int) -> str:
    items = [f"<li>{plots.style_sample(style)} <b>{style}</b> {_name(name)}</li>" for name, style in styles]
    if others:
        items.append(f"<li>{plots.style_sample(0)} {others} other{'' if others == 1 else 's'}</li>")
    return f'<ul class="legend">{"".join(items)}</ul>'


def _marks(document: Document) -> list[Mark]:
    """The chosen penalty and those of the two rules, one mark where they are the same."""
    cv = document.get("cv", {})
    named = [("chosen", document["model"].get("alpha")), ("min", cv.get("alpha_min")), ("1se", cv.get("alpha_1se"))]
    texts: dict[float, list[str]] = {}
    for text, alpha in named:
        if alpha is not None:
            texts.setdefault(alpha, []).append(text)
    return [Mark(alpha, " = ".join(of), main="chosen" in of) for alpha, of in texts.items()]


def _dots(document: Document, sds: Mapping[str, float]) -> list[Dot]:
    """The largest coefficients that are not 0, from positive to negative; times their standard deviations, if given."""
    found = []
    for name, value in document["coefficients"].items():
        factor = sds.get(name, 0.0) if sds else 1.0
        if value * factor:
            of = document.get("inference", {}).get(name)
            low, high = (of["low"] * factor, of["high"] * factor) if of else (None, None)
            found.append(Dot(name, value * factor, low, high))
    largest = sorted(found, key=lambda dot: abs(dot.value), reverse=True)[:DOTS]
    return sorted(largest, key=lambda dot: dot.value, reverse=True)


def _model_words(document: Document) -> str:
    settings = document["model"]
    kind = KINDS.get(_kind(document), _kind(document))
    if settings["kind"] == "ols":
        return kind
    ratio = f", l1_ratio {settings['l1_ratio']:g}" if settings["kind"] == "elastic-net" else ""
    chosen = f"{kind}{ratio}, alpha {settings['alpha']:.6g}"
    count = len(settings.get("alphas", ())) or settings.get("n_alphas", 0)
    if count < 2:
        return chosen
    rule = str(settings.get("rule", ""))
    return f"{chosen}, chosen out of {count} penalties: {RULES.get(rule, rule)}"


def _time(text: str) -> str:
    return text.replace("T", " ").replace("Z", " UTC")


def _kind(document: Document) -> str:
    return str(document["model"]["kind"])


def _full(feature: Mapping[str, Any]) -> str:
    return f"{feature['party']}.{feature['column']}"


def _feature_names(feature: Mapping[str, Any]) -> list[str]:
    if feature["kind"] == "numeric":
        return [_full(feature)]
    return [f"{_full(feature)}={level}" for level in feature["levels"][1:]]


def _name(name: str) -> str:
    """A name from a user, with places to break it, and isolated: its direction of writing stays its own."""
    return f"<bdi>{BREAKS.sub(BREAK, _text(name))}</bdi>"


def _text(text: object) -> str:
    return escape(str(text))
