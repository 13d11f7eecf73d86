"""The gallery: self-contained, complete, and inert whatever was asked, written or observed."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from share.kernel.contracts.task import Prompt
from share.kernel.contracts.trajectory import Action, Trajectory
from share.kernel.contracts.vision import Region, Scene, Transform
from share.kernel.report import gallery
from share.kernel.report.gallery import GalleryItem, write_gallery

HOSTILE = "</script><script>document.title='broken'</script><img src=x onerror=alert(1)>\"'&{{ 7 * 7 }}"


class Page(HTMLParser):
    """What a browser would see: tags with attributes, the text outside scripts and styles, and the scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def _item(
    *,
    step: int = 1,
    correctness: float = 1.0,
    question: str = "What digit is on the red card?",
    answer: str | None = "7",
    actions: tuple[Action, ...] | None = None,
    seed: int = 0,
    truth: object = (40.0, 40.0, 60.0, 60.0),
) -> GalleryItem:
    """A policy that saw an image of 320 px at 80 px, zoomed on a box of it, and answered."""
    native = np.random.default_rng(seed).integers(0, 255, (320, 320, 3), dtype=np.uint8)
    scene = Scene(natives=(native,))
    scene.add_view(native[::4, ::4].copy(), 0, Transform(4, 4))
    scene.add_view(native[40:80, 40:80].copy(), 0, Transform(1, 1, 40, 40))
    scene.add_region(Region("r1", 0, (320, 320), (102400,), (8.0, 8.0, 24.0, 24.0), 0, 0.9))
    zoom = Action(
        "operation",
        'I look. <tool_call>\n{"name": "ZOOM_IN", "arguments": {"bbox": [10, 10, 20, 20]}}\n</tool_call>',
        operation="ZOOM_IN",
        arguments={"bbox": [10, 10, 20, 20]},
        observation="image_2: 40 x 40 pixels",
        view="image_2",
        elapsed_ms=1.25,
    )
    end = Action("answer", f"<answer>{answer}</answer>")
    chosen = (zoom, end) if actions is None else actions
    prompt = Prompt("zoom-1", "zoom_digits", question, (native,), "7", difficulty=2, truth={"box": truth})
    return GalleryItem(
        step=step,
        split="train",
        prompt=prompt,
        trajectory=Trajectory("zoom-1", chosen, answer, "answer" if answer is not None else "turns_max"),
        scene=scene,
        correctness=correctness,
        reward=1.25,
        rewards={"task": 1.0, "curiosity": 0.25, "misuse": -0.5, "coherence": None},
        advantage=0.75,
    )


def _page(tmp_path: Path, *items: GalleryItem) -> Page:
    path = tmp_path / "trajectories.html"
    write_gallery(path, items)
    return Page(path.read_text(encoding="utf-8"))


def test_a_page_shows_what_was_asked_written_observed_and_earned(tmp_path: Path) -> None:
    text = _page(tmp_path, _item()).text
    for expected in (
        "What digit is on the red card?",
        "answered “7”",
        '{"name": "ZOOM_IN", "arguments": {"bbox": [10, 10, 20, 20]}}',
        "image_2: 40 x 40 pixels",
        "1.2 ms",
        "curiosity",
        "+0.250",
        "-0.500",
        "not scored",
        "+1.250",
        "+0.750",
        "as the policy saw it: 80 x 80 px",
    ):
        assert expected in text


def test_the_box_that_was_zoomed_is_drawn_on_the_native_image_beside_the_truth_and_the_region(tmp_path: Path) -> None:
    found = Action("operation", "", operation="SEGMENT_OBJECT_AT", arguments={"x": 3, "y": 5}, region="r1")
    zoom = Action("operation", "", operation="ZOOM_IN", arguments={"bbox": [10, 10, 20, 20]}, view="image_2")
    page = _page(tmp_path, _item(actions=(zoom, found)))
    boxes = {tuple(float(box[key] or 0) for key in ("x", "y", "width", "height")) for box in page.of("rect")}
    assert boxes == {(40, 40, 40, 40), (40, 40, 20, 20), (8, 8, 16, 16)}
    points = {(float(point["cx"] or 0), float(point["cy"] or 0)) for point in page.of("circle")}
    assert points == {(12, 20)}


def test_a_box_said_in_a_zoomed_view_is_drawn_where_it_lies_in_the_image(tmp_path: Path) -> None:
    again = Action("operation", "", operation="ZOOM_IN", arguments={"bbox": [5, 5, 10, 10], "image": "image_2"})
    zoom = Action("operation", "", operation="ZOOM_IN", arguments={"bbox": [10, 10, 20, 20]}, view="image_2")
    page = _page(tmp_path, _item(actions=(zoom, again), truth=None))
    assert [float(box["x"] or 0) for box in page.of("rect")] == [40, 45, 5]  # twice on the image, once on the view


def test_every_image_is_inside_the_page_and_nothing_is_fetched(tmp_path: Path) -> None:
    page = _page(tmp_path, _item())
    images = json.loads(page.scripts[0])
    assert all(source.startswith(("data:image/png;base64,", "data:image/jpeg;base64,")) for source in images.values())
    assert {image["data-image"] for image in page.of("img")} == set(images)
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")
    assert "http" not in page.scripts[1]
    policies = [meta["content"] or "" for meta in page.of("meta") if "http-equiv" in meta]
    assert policies[0].startswith("default-src 'none'; img-src data:;")


def test_half_a_character_in_a_question_costs_a_character_and_no_page(tmp_path: Path) -> None:
    assert "which ? is it" in _page(tmp_path, _item(question="which \ud83d is it")).text


def test_an_image_that_several_rollouts_show_is_kept_once(tmp_path: Path) -> None:
    assert len(json.loads(_page(tmp_path, *[_item() for _ in range(8)]).scripts[0])) == 3


def test_whatever_is_written_stays_text(tmp_path: Path) -> None:
    hostile = Action(
        "operation",
        f"<tool_call>{HOSTILE}</tool_call>",
        operation=HOSTILE,
        arguments={"bbox": [HOSTILE, float("nan"), 1e300, True], "x": HOSTILE, "y": float("inf"), "image": HOSTILE},
        observation=HOSTILE,
        error=HOSTILE,
    )
    item = _item(question=HOSTILE, answer=HOSTILE, actions=(hostile, Action("invalid", HOSTILE)))
    page = _page(tmp_path, item)
    assert len(page.scripts) == 2
    assert "broken" not in "".join(page.scripts)
    assert not [attributes for _, attributes in page.tags if any(name.startswith("on") for name in attributes)]
    assert {image.get("src") for image in page.of("img")} == {None}
    assert page.text.count(HOSTILE) >= 6


def test_marks_that_a_policy_made_up_cannot_leave_their_picture(tmp_path: Path) -> None:
    far = Action("operation", "", operation="ZOOM_IN", arguments={"bbox": [-9e5, -9e5, 9e5, 9e5]})
    path = tmp_path / "trajectories.html"
    write_gallery(path, [_item(actions=(far,))])
    assert "overflow: hidden" in path.read_text().split(".frame svg", 1)[1].split("}", 1)[0]


def test_rollouts_can_be_told_apart_by_outcome_step_and_split(tmp_path: Path) -> None:
    items = [_item(step=step, correctness=correctness) for step in (1, 20) for correctness in (0.0, 0.4, 1.0)]
    links = _page(tmp_path, *items).of("a")
    assert [link["data-outcome"] for link in links] == ["wrong", "partly", "correct"] * 2
    assert [link["data-step"] for link in links] == ["1"] * 3 + ["20"] * 3
    assert {link["data-split"] for link in links} == {"train"}


def test_a_rollout_without_an_answer_says_how_it_ended(tmp_path: Path) -> None:
    assert "no answer (turns_max)" in _page(tmp_path, _item(answer=None, correctness=0.0)).text


def test_a_failed_call_shows_its_error(tmp_path: Path) -> None:
    failed = Action("operation", "", operation="ZOOM_IN", arguments={}, error="bbox: must be four numbers")
    assert "bbox: must be four numbers" in _page(tmp_path, _item(actions=(failed,))).text


def test_what_does_not_fit_is_left_out_and_counted(tmp_path: Path) -> None:
    items = [_item(seed=seed) for seed in range(5)]
    path = tmp_path / "trajectories.html"
    write_gallery(path, items, items_max=3)
    assert "2 more rollouts do not fit" in path.read_text()
    write_gallery(path, items, image_bytes_max=10)
    assert "4 more rollouts do not fit" in path.read_text()


def test_an_endless_text_is_cut_and_says_so(tmp_path: Path) -> None:
    endless = Action("invalid", "x" * (gallery.TEXT_CHARACTERS_MAX + 1_234))
    assert "(1,234 more characters)" in _page(tmp_path, _item(actions=(endless,))).text


def test_a_page_without_rollouts_says_so(tmp_path: Path) -> None:
    page = _page(tmp_path)
    assert "No rollout to show." in page.text
    assert not page.of("article")


def test_a_video_shows_its_frames_by_number(tmp_path: Path) -> None:
    frames = tuple(np.full((24, 32, 3), number, dtype=np.uint8) for number in range(5))
    scene = Scene(natives=frames, is_video=True)
    scene.add_view(frames[0], 0, Transform())
    scene.add_view(frames[4], 4, Transform())
    prompt = Prompt("v", "follow_object", "Where?", frames, "A", is_video=True, shown=(0, 4))
    item = GalleryItem(3, "held_out", prompt, Trajectory("v", (), "A", "answer"), scene, 1.0)
    text = _page(tmp_path, item).text
    assert "frame 1 of 5" in text
    assert "frame 5 of 5" in text
    assert "held-out" in text


def test_two_pages_of_the_same_rollouts_are_the_same(tmp_path: Path) -> None:
    write_gallery(tmp_path / "one.html", [_item()])
    write_gallery(tmp_path / "two.html", [_item()])
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
