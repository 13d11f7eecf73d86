"""Other processes for tests: `python -m tests.experience.children ROLE DIR …` does what its lines of input say.

Every line of input is a JSON list of a command and its arguments, and is answered with a line of JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from share.kernel.contracts.experience import Experience
from share.kernel.errors import BufferProblem
from share.kernel.experience.buffer import open_buffer
from share.kernel.experience.producer import ExperienceProducer
from share.kernel.experience.reader import ExperienceReader
from share.kernel.registry import load_registry
from tests.experience.making import experience, settings

ROOT = Path(__file__).parents[2]


class Child:
    """Another process, in one of the roles below. Killed at the end if it has not ended."""

    def __init__(self, role: str, directory: Path, **values: Any) -> None:
        argv = [sys.executable, "-m", __name__, role, str(directory), json.dumps(values)]
        self.process = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.answer() == "ready"

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def send(self, *command: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the child has died"
        return json.loads(line)

    def ask(self, *command: Any) -> Any:
        self.send(*command)
        return self.answer()


def is_whole(found: Experience) -> bool:
    """Whether an experience is the one that its id says, to the last number."""
    wanted = experience(found.id.removeprefix("e"))
    same = (found.question, found.answer, found.confidence) == (wanted.question, wanted.answer, wanted.confidence)
    return same and found.embedding.tobytes() == wanted.embedding.tobytes()


def say(answer: Any) -> None:
    print(json.dumps(answer), flush=True)


def write(directory: Path, values: dict[str, Any]) -> None:
    """A writer: `add ID`, `flood PREFIX` (adds without end, saying each id that is acknowledged), `close`."""
    registry = load_registry()
    with open_buffer(directory, settings(registry, **values), registry) as buffer:
        say("ready")
        for line in sys.stdin:
            command, *arguments = json.loads(line)
            try:
                if command == "add":
                    say(buffer.add(experience(arguments[0])))
                elif command == "flood":
                    for number in range(10**9):
                        buffer.add(experience(f"{arguments[0]}-{number}"))
                        say(f"e{arguments[0]}-{number}")
                else:
                    return
            except BufferProblem as error:
                say([type(error).__name__, str(error)])


def produce(directory: Path, values: dict[str, Any]) -> None:
    """A producer: `add PREFIX COUNT` answers with the sequences."""
    with ExperienceProducer(directory) as producer:
        say("ready")
        for line in sys.stdin:
            _, prefix, count = json.loads(line)
            try:
                say([producer.add(experience(f"{prefix}-{number}")) for number in range(count)])
            except BufferProblem as error:
                say([type(error).__name__, str(error)])


def read(directory: Path, values: dict[str, Any]) -> None:
    """A reader: `probe ID` (what is found by its embedding, and whole), `look`, `watch` (until the next line)."""
    registry = load_registry()
    with ExperienceReader(directory, registry) as reader:
        say("ready")
        lines = iter(sys.stdin)
        for line in lines:
            command, *arguments = json.loads(line)
            if command == "probe":
                found = reader.search_index(experience(arguments[0]).embedding, 1)
                kept = reader.get(f"e{arguments[0]}")
                say([found[0].id if found else None, kept is not None and is_whole(kept)])
            elif command == "look":
                say([len(reader), reader.sequence, reader.generation])
            elif command == "watch":
                say(_watch(reader, lambda: next(lines)))


def _watch(reader: ExperienceReader, wait: Callable[[], object]) -> list[int]:
    """Read until `wait` returns. Counts looks, torn experiences, sequences that went back, missing neighbors."""
    is_over = threading.Event()

    def listen() -> None:
        wait()
        is_over.set()

    threading.Thread(target=listen, daemon=True).start()
    looks = torn = backwards = missing = sequence = 0
    while not is_over.is_set():
        looks += 1
        backwards += reader.sequence < sequence
        sequence = max(sequence, reader.sequence)
        for each in list(reader)[-3:]:
            torn += not is_whole(each)
            missing += reader.search_index(each.embedding, 1)[0].id != each.id
    return [looks, torn, backwards, missing]


ROLES = {"write": write, "produce": produce, "read": read}

if __name__ == "__main__":
    ROLES[sys.argv[1]](Path(sys.argv[2]), json.loads(sys.argv[3]))
