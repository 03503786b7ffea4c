"""What the program tells the user, apart from its output."""

import functools
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar


def say(line: str) -> None:
    """Tell the user one thing, apart from the program's output."""
    print(line, file=sys.stderr, flush=True)


Item = TypeVar("Item")


def watched(items: Iterable[Item], total: int | None, what: str) -> Iterator[Item]:
    """Pass the items on, with a progress bar on stderr once they have taken more than two seconds."""
    from rich.console import Console
    from rich.progress import Progress

    bar = Progress(console=Console(stderr=True))
    task = bar.add_task(what, total=total)
    started = time.monotonic()
    try:
        for i, item in enumerate(items, start=1):
            yield item
            if bar.live.is_started:
                bar.update(task, completed=i)
            elif time.monotonic() - started > 2:
                bar.start()
    finally:
        if bar.live.is_started:
            bar.stop()


@functools.cache
def say_once(line: str) -> None:
    """Tell the user one thing, once: the training and the test part often have the same to say."""
    say(line)
