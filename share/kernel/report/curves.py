"""The picture of a training: what `events.jsonl` says of every step, as small multiples on one page."""

from __future__ import annotations

import io
import json
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from share.kernel.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SMOOTH_FROM = 40
"""Steps from which a curve is drawn smoothed, with what was measured faint behind it. The number over a panel is the
last held-out value, or else the end of the smoothed curve."""


NOTE_ROWS = 4
"""Rows below a panel's upper edge in which alarms and phases are named."""

NOTE_HEIGHT = 0.062
"""Height of such a row, as a share of the panel's."""

CHARACTER_WIDTH = 0.0145
"""Width of a character of such a name, as a share of the panel's."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One line: the key of the numbers in the events, and what it is called. `sparse` ones are drawn with markers."""

    key: str
    label: str
    sparse: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """One small picture. `unit` of its y-axis; `share` scales it from 0 to 100 %."""

    title: str
    curves: tuple[Curve, ...]
    unit: str = ""
    share: bool = False


PANELS = (
    Panel(
        "Accuracy",
        (
            Curve("accuracy", "training"),
            Curve("held_out_accuracy", "held-out", sparse=True),
            Curve("held_out_accuracy_without_operations", "held-out, no operations", sparse=True),
        ),
        share=True,
    ),
    Panel("Reward", (Curve("reward", "mean"),)),
    Panel(
        "Rollouts that call an operation",
        (
            Curve("rapr", "training"),
            Curve("operation_share", "training"),
            Curve("held_out_operation_share", "held-out", sparse=True),
        ),
        share=True,
    ),
    Panel("KL", (Curve("kl", "to the reference"), Curve("kl_behavior", "to the behavior policy")), "nats / token"),
    Panel("Entropy", (Curve("entropy", "policy"),), "nats / token"),
    Panel("Loss", (Curve("loss", "training"), Curve("held_out_loss", "held-out", sparse=True))),
    Panel("Groups of equal rewards", (Curve("zero_variance_share", "training"),), share=True),
    Panel("Speed", (Curve("tokens_per_s", "training"),), "tokens / s"),
    Panel("Learning rate", (Curve("learning_rate", "training"),)),
)
"""Panels in the order of reading. One whose numbers a run did not measure is left out."""

REWARDS_PREFIX = "reward_"
"""Keys that begin so are components; they join the panel of the reward."""

_COLORS = ("#2f5fd0", "#d0662f", "#13795b", "#8a4fbf", "#a68a00", "#b0417a", "#4a8fa8", "#666666")
_FAINT = "#667085"
_ALARM = "#c0362c"

Points = list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Measured:
    """What a run measured: points (step, value) by key in order of step, and steps at which something was noted."""

    points: dict[str, Points]
    alarms: tuple[tuple[int, str], ...]
    phases: tuple[tuple[int, str], ...]


def write_curves(run_dir: Path, path: Path, title: str = "") -> bool:
    """Draw the numbers of `run_dir/events.jsonl` into a PNG at `path`, atomically.

    Returns False, and writes nothing, when the run measured no step. Takes about 0.6 s, and as long again for the
    first import of matplotlib.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    measured = read_measured(run_dir / "events.jsonl")
    panels = _panels(measured)
    if not panels:
        return False
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(4.4 * columns, 2.7 * rows + 0.5), dpi=110, layout="constrained", facecolor="white")
    figure.suptitle(title or run_dir.name, fontsize=11, fontweight="bold", x=0.01, ha="left")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, panel in zip(axes, panels, strict=False):
        _draw(axis, panel, measured)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png")
    write_atomically(path, buffer.getvalue())
    return True


def read_measured(events: Path) -> Measured:
    """The finite numbers of the events `train.*` that have a step. Where a run was resumed, the later record counts."""
    by_key: dict[str, dict[int, float]] = {}
    alarms: set[tuple[int, str]] = set()
    phases: dict[int, str] = {}
    with events.open(encoding="utf-8") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:  # the half line that a killed process left
                continue
            event, step = str(record.get("event", "")), record.get("step")
            if not isinstance(step, int):
                continue
            if event.startswith("alarm."):
                alarms.add((step, event.removeprefix("alarm.").replace("_", " ")))
            elif event == "train.phase":
                named = (str(record[key]) for key in ("stage", "phase") if key in record)
                phases[step] = ": ".join(named) or "next phase"
            elif event.startswith("train."):
                for key, value in record.items():
                    if key != "step" and _is_finite(value):
                        by_key.setdefault(key, {})[step] = float(value)
    points = {key: sorted(values.items()) for key, values in by_key.items()}
    return Measured(points, tuple(sorted(alarms)), tuple(sorted(phases.items())))


def _panels(measured: Measured) -> list[Panel]:
    """The panels with the curves that were measured; reward components and further held-out numbers join in."""
    known = {curve.key for panel in PANELS for curve in panel.curves}
    panels = []
    for panel in PANELS:
        curves = [curve for curve in panel.curves if curve.key in measured.points]
        if panel.title == "Reward":
            curves += [
                Curve(key, key.removeprefix(REWARDS_PREFIX).replace("_", " "))
                for key in sorted(measured.points)
                if key.startswith(REWARDS_PREFIX) and not key.endswith(("_std", "_weight"))
            ]
        if curves:
            panels.append(Panel(panel.title, tuple(curves[: len(_COLORS)]), panel.unit, panel.share))
    skills = [
        Curve(key, key.removeprefix("held_out_").replace("_", " "), sparse=True)
        for key in sorted(measured.points)
        if key.startswith("held_out_") and key not in known and not key.endswith(("_mean", "_std"))
        if all(0 <= value <= 1 for _, value in measured.points[key])
    ]
    if skills:
        panels.insert(1, Panel("Held-out scores", tuple(skills[: len(_COLORS)]), share=True))
    return panels


def _draw(axis: Axes, panel: Panel, measured: Measured) -> None:
    from matplotlib.ticker import MaxNLocator

    for color, curve in zip(_COLORS, panel.curves, strict=False):
        steps, values = zip(*measured.points[curve.key], strict=True)
        if curve.sparse:
            axis.plot(steps, values, color=color, lw=1.4, marker="o", ms=4, label=curve.label)
        elif len(values) >= SMOOTH_FROM:
            axis.plot(steps, values, color=color, lw=0.7, alpha=0.25)
            axis.plot(steps, smoothed(values), color=color, lw=1.8, label=curve.label)
        else:
            axis.plot(steps, values, color=color, lw=1.6, marker="o" if len(values) == 1 else "", label=curve.label)
    _draw_notes(axis, measured)
    alone = panel.curves[0].label if len(panel.curves) == 1 else ""
    title = panel.title if alone in ("", "training", "mean", "policy") else f"{panel.title} {alone}"
    axis.set_title(title, fontsize=9.5, loc="left")
    axis.set_ylabel(panel.unit, fontsize=7.5, color=_FAINT)
    axis.tick_params(labelsize=7.5, colors=_FAINT, length=2)
    axis.grid(visible=True, lw=0.5, color="#e6e8ec")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color("#c9ccd3")
    axis.margins(x=0.02)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    if panel.share:
        axis.set_ylim(-0.03, 1.03)
        axis.set_yticks([0, 0.25, 0.5, 0.75, 1.0], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    if len(panel.curves) > 1:
        axis.legend(fontsize=7, frameon=False, loc="best", handlelength=1.4)
    headline = next((number for number, curve in enumerate(panel.curves) if curve.sparse), 0)
    course = [value for _, value in measured.points[panel.curves[headline].key]]
    last = course[-1] if panel.curves[headline].sparse else smoothed(course)[-1]
    text = f"{last:.1%}" if panel.share else f"{last:,.0f}" if abs(last) >= 1000 else f"{last:.3g}"
    axis.set_title(text, fontsize=9.5, loc="right", color=_COLORS[headline])


def _draw_notes(axis: Axes, measured: Measured) -> None:
    """A dotted line at every step with a note, and the notes' names in rows below the upper edge."""
    notes = sorted((step, name, color) for color, each in _notes(measured) for step, name in each)
    for step, _, color in notes:
        axis.axvline(step, color=color, lw=0.8, ls=":")
    first, last = axis.get_xlim()
    colors = {(step, name): color for step, name, color in notes}
    for label in placed([(step, name) for step, name, _ in notes], first, last):
        axis.text(
            label.step,
            0.985 - label.row * NOTE_HEIGHT,
            f" {label.count} x {label.name} " if label.count > 1 else f" {label.name} ",
            transform=axis.get_xaxis_transform(),
            fontsize=6.5,
            color=colors[label.step, label.name],
            va="top",
            ha="right" if label.leftward else "left",
            bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.2},
        )


def _notes(measured: Measured) -> tuple[tuple[str, tuple[tuple[int, str], ...]], ...]:
    return (_ALARM, measured.alarms), (_FAINT, measured.phases)


@dataclass(slots=True)
class Label:
    """The name of a note beside the line of its step, in a row counted from the top. `begin` and `end` are the room
    that is kept for it, as shares of the panel's width; `count` the notes of that name that it stands for."""

    name: str
    step: int
    row: int
    begin: float
    end: float
    leftward: bool
    count: int = 1


def placed(notes: Sequence[tuple[int, str]], first: float, last: float) -> list[Label]:
    """The labels of notes (step, name) in order of step, on an axis from `first` to `last`; no two lie on each other.

    A name that would lie on the same name is counted there instead. Where all rows are taken a note has its line alone.
    """
    labels: list[Label] = []
    for step, name in notes:
        at, width = (step - first) / (last - first), CHARACTER_WIDTH * (len(name) + 5)  # room for a count
        leftward = at + width > 1.0
        begin, end = (at - width, at) if leftward else (at, at + width)
        near = [label for label in labels if label.begin < end and begin < label.end]
        again = next((label for label in near if label.name == name), None)
        rows = set(range(NOTE_ROWS)).difference(label.row for label in near)
        if again is not None:
            again.count += 1
        elif rows:
            labels.append(Label(name, step, min(rows), begin, end, leftward))
    return labels


def smoothed(values: Sequence[float]) -> list[float]:
    """A Gaussian-weighted mean around each point, over about a twentieth of the curve; it does not lag behind."""
    deviation = max(1.5, len(values) / 50)
    reach = math.ceil(3 * deviation)
    weights = [math.exp(-((offset / deviation) ** 2) / 2) for offset in range(-reach, reach + 1)]
    result = []
    for center in range(len(values)):
        first, last = max(0, center - reach), min(len(values), center + reach + 1)
        near = weights[first - center + reach : last - center + reach]
        result.append(sum(map(operator.mul, near, values[first:last])) / sum(near))
    return result


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


__all__ = [
    "CHARACTER_WIDTH",
    "NOTE_HEIGHT",
    "NOTE_ROWS",
    "PANELS",
    "REWARDS_PREFIX",
    "SMOOTH_FROM",
    "Curve",
    "Label",
    "Measured",
    "Panel",
    "placed",
    "read_measured",
    "smoothed",
    "write_curves",
]
