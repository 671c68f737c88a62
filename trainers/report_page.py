"""The evaluation report as one HTML page: no script, no network, pictures inside; every name escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from trainers.comparison import DOS_WIDTH, INSULATOR, WIDE_GAP, WINDOW

_MOST_ROWS = 200
_LONGEST_VALUE = 400

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light; }}
body {{ font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif; color: #1a1a1a;
  background: #fff; max-width: 58rem; margin: 2rem auto; padding: 0 1.25rem; }}
h1 {{ font-size: 1.7rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.2rem; margin: 2.2rem 0 .5rem; padding-top: .6rem; border-top: 1px solid #ddd; }}
p, figcaption, dl {{ margin: .4rem 0; }}
.warning {{ color: #a33000; font-weight: 600; }}
.subtitle, figcaption, .note {{ color: #555; font-size: .9rem; }}
table {{ border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .25rem .5rem; text-align: right; border-bottom: 1px solid #e5e5e5; vertical-align: top; }}
th {{ border-bottom: 2px solid #999; font-weight: 600; }}
th.text, td.text {{ text-align: left; overflow-wrap: anywhere; }}
th.text:first-child {{ min-width: 13.5rem; }}
tr:nth-child(even) td {{ background: #f8f8f8; }}
figure {{ margin: .8rem 0 1.2rem; }}
figure img {{ max-width: 100%; height: auto; display: block; margin: 0 auto; }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; font-size: .92rem; }}
dt {{ color: #555; }}
dd {{ margin: 0; overflow-wrap: anywhere; }}
@media print {{
  @page {{ size: A4; margin: 14mm; }}
  body {{ font-size: 10pt; margin: 0; max-width: none; padding: 0; }}
  figure, tr {{ break-inside: avoid; }}
  h2 {{ break-after: avoid; }}
  thead {{ display: table-header-group; }}
}}
</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p class="subtitle">{subtitle}</p>
</header>
<main>
{body}
</main>
</body>
</html>
"""


def page(title: str, subtitle: str, sections: Sequence[tuple[str, str]]) -> str:
    """The whole page; section bodies are HTML already, titles are text."""
    body = "\n".join(f"<section>\n<h2>{escape(name)}</h2>\n{html}\n</section>" for name, html in sections)
    return _PAGE.format(title=escape(title), subtitle=escape(subtitle), body=body)


def figure(svg: bytes, caption: str) -> str:
    """An SVG within the page, with its caption as alternative text too."""
    data = base64.b64encode(svg).decode("ascii")
    return (
        f'<figure><img src="data:image/svg+xml;base64,{data}" alt="{escape(caption)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def definitions(rows: Mapping[str, Any]) -> str:
    """Names with their values."""
    items = "".join(f"<dt>{escape(str(k))}</dt><dd>{escape(_brief(v))}</dd>" for k, v in rows.items())
    return f"<dl>{items}</dl>"


def _brief(value: Any) -> str:
    """A value on one line; mappings as "key value" lists."""
    if isinstance(value, Mapping):
        text = ", ".join(f"{k} {_brief(v)}" for k, v in value.items())
    else:
        text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]} …"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], text: Sequence[int] = (0,)) -> str:
    """A table of text; the columns in `text` are words, the others numbers."""

    def line(tag: str, cells: Sequence[str]) -> str:
        opening = [f'<{tag} class="text">' if n in text else f"<{tag}>" for n in range(len(cells))]
        marked = (f"{o}{escape(cell)}</{tag}>" for o, cell in zip(opening, cells, strict=True))
        return f"<tr>{''.join(marked)}</tr>"

    body = "\n".join(line("td", row) for row in rows)
    return f"<table><thead>{line('th', header)}</thead><tbody>\n{body}\n</tbody></table>"


def note(text: str) -> str:
    """A remark in small print."""
    return f'<p class="note">{escape(text)}</p>'


def warning(text: str) -> str:
    """A remark that nobody shall overlook."""
    return f'<p class="warning">Warning: {escape(text)}</p>'


def summary(metrics: Mapping[str, Any]) -> str:
    """The table that people look for first, below what makes it doubtful."""
    levels, gap, dos = metrics["levels_meV"], metrics["gap"], metrics["dos_error_percent"]
    structures = metrics["structures"]

    def worst(key: str) -> str:
        return number(max(abs(s[key]) for s in structures))

    near = f"±{WINDOW:g} eV of the Fermi level (of the band edges above a {WIDE_GAP:g} eV gap)"
    rows = [
        (
            "MAE of H, gauge-fixed (meV)",
            number(metrics["mae_gauge_fixed_meV"]),
            worst("mae_gauge_fixed_meV"),
            "mean over all entries after the best μ of each structure, H → H − μS",
        ),
        (
            "MAE of H, raw (meV)",
            number(metrics["mae_raw_meV"]),
            worst("mae_raw_meV"),
            f"as predicted; mean |H| is {number(metrics['mean_abs_H_meV'])} meV",
        ),
        (
            "levels, RMS (meV)",
            number(levels["rms_shifted"]["over_structures"]),
            number(levels["rms_shifted"]["worst"]),
            f"{near}, after the best common shift",
        ),
        (
            "levels, RMS, Fermi zero (meV)",
            number(levels["rms_fermi"]["over_structures"]),
            number(levels["rms_fermi"]["worst"]),
            "same levels, both Fermi levels at zero",
        ),
        (
            "Fermi level (meV)",
            number(levels["fermi_to_bands"]["over_structures"]),
            number(levels["fermi_to_bands"]["worst"]),
            "mean |error| relative to the bands, i.e. after the best common shift",
        ),
        _gap_row(gap, len(structures)),
        (
            "density of states (%)",
            number(dos["mean"]),
            number(dos["worst"]),
            f"∫|ΔD| dE / ∫D dE: misplaced states per state in the window, broadened by {DOS_WIDTH:g} eV",
        ),
    ]
    if metrics["own_overlap"]:
        own = metrics["own_overlap"]
        rows.append(
            (
                "with the model's own S (meV)",
                "",
                number(own["rms_shifted"]),
                f"levels, RMS, with S from its radial functions; max |ΔS| {own['max_error']:.1e}",
            )
        )
    rows += _energy_rows(metrics.get("energy") or {})
    doubts = "".join(warning(line) for line in metrics["warnings"])
    return doubts + table(("quantity", "all", "worst structure", "how it is measured"), rows, text=(0, 3))


def _energy_rows(energy: Mapping[str, float]) -> list[tuple[str, str, str, str]]:
    """Of the energy head, where model and data have energies and forces."""
    rows = []
    if "energy_mae_meV_per_atom" in energy:
        rows.append(
            (
                "energy (meV per atom)",
                number(energy["energy_mae_meV_per_atom"]),
                number(energy["energy_worst_meV_per_atom"]),
                "mean |error| over structures; "
                f"{number(energy['energy_mae_without_mean_meV_per_atom'])} after the best common shift",
            )
        )
    if "force_mae_meV_per_A" in energy:
        rows.append(
            (
                "forces (meV/Å)",
                number(energy["force_mae_meV_per_A"]),
                number(energy["force_worst_structure_meV_per_A"]),
                "mean |error| over components; mean |component| of the reference is "
                f"{number(energy['mean_abs_force_meV_per_A'])} meV/Å",
            )
        )
    return rows


def _gap_row(gap: Mapping[str, Any], n: int) -> tuple[str, str, str, str]:
    count, wrong, full = gap["n_insulators"], gap["n_wrong_character"], gap["n_all_bands_full"]
    return (
        "gap (meV)",
        number(gap["mean_meV"]) if count else "–",
        number(gap["worst_meV"]) if count else "–",
        f"mean |error| over the {count} of {n} structures with a DFT gap above {INSULATOR:g} eV on the k-mesh "
        f"(a coarse one may miss where bands cross); {wrong} of {n} on the wrong side of that line"
        + (f"; all bands full, hence no gap, in {full} of {n}" if full else ""),
    )


def structure_table(structures: Sequence[Mapping[str, Any]]) -> str:
    """The structures from the worst to the best level error."""
    columns = {
        "structure": "name",
        "atoms": "n_atoms",
        "MAE of H (meV)": "mae_gauge_fixed_meV",
        "raw (meV)": "mae_raw_meV",
        "levels, RMS (meV)": "levels_rms_shifted",
        "Fermi level (meV)": "levels_fermi_to_bands",
        "gap DFT (eV)": "gap_dft_meV",
        "gap predicted (eV)": "gap_predicted_meV",
        "DOS (%)": "dos_error_percent",
        "spread (meV)": "spread_meV",
    }
    columns = {label: key for label, key in columns.items() if key in structures[0]}
    ranked = sorted(structures, key=lambda s: -s["levels_rms_shifted"])
    rows = [[_cell(s[key], key) for key in columns.values()] for s in ranked[:_MOST_ROWS]]
    left_out = len(ranked) - _MOST_ROWS
    more = note(f"{left_out} better structures are in structures.csv only.") if left_out > 0 else ""
    return table(tuple(columns), rows) + more


def _cell(value: Any, key: str) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return "all bands full"
    if key.startswith("gap_"):
        return f"{1e-3 * value:.3f}" if value > 0 else "metal"
    return str(value) if isinstance(value, int) else number(value)


def number(value: float) -> str:
    """Three significant digits, without an exponent where it can be avoided."""
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.2e}"
    digits = max(0, 2 - int(f"{abs(value):e}".split("e")[1]))
    return f"{value:.{digits}f}".replace("-", "−")
