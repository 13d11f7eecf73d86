"""The live page: from writer to readers, and from writer to writer."""

from __future__ import annotations

from pathlib import Path

from share.kernel.experience.live import NAME, SIZE, LivePage, LiveView, Said


def test_a_reader_sees_what_is_published(tmp_path: Path) -> None:
    view = LiveView(tmp_path)
    assert view.read() is None
    page = LivePage(tmp_path, epoch=3, generation=1, sequence=10)
    assert view.read() == Said(3, 1, 10)
    page.publish(2**40)
    page.announce(2)
    assert view.read() == Said(3, 2, 2**40)
    page.close()
    assert view.read() == Said(3, 2, 2**40)  # the last word of a writer that ended
    view.close()


def test_a_reader_follows_to_the_next_writer_whose_predecessor_cannot_disturb_it(tmp_path: Path) -> None:
    view = LiveView(tmp_path)
    old = LivePage(tmp_path, epoch=1, generation=0, sequence=5)
    assert view.read() == Said(1, 0, 5)
    LivePage(tmp_path, epoch=2, generation=4, sequence=7)
    old.publish(99)  # it was taken over and does not know it yet
    old.announce(99)
    assert view.read() == Said(2, 4, 7)
    assert LiveView(tmp_path).read() == Said(2, 4, 7)


def test_a_page_of_an_earlier_boot_says_nothing(tmp_path: Path) -> None:
    LivePage(tmp_path, epoch=1, generation=1, sequence=10).close()
    content = bytearray((tmp_path / NAME).read_bytes())
    assert len(content) == SIZE
    content[8] ^= 1  # the boot's id
    (tmp_path / NAME).write_bytes(content)
    assert LiveView(tmp_path).read() is None


def test_a_page_that_is_cut_or_nonsense_says_nothing(tmp_path: Path) -> None:
    for content in (b"", b"nonsense", bytes(SIZE), b"x" * SIZE):
        (tmp_path / NAME).write_bytes(content)
        assert LiveView(tmp_path).read() is None
