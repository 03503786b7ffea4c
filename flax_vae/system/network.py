"""Downloads with a timeout."""

import threading
import urllib.error
import urllib.request
from concurrent.futures import Future
from http.client import HTTPException

from flax_vae.system.console import progress

TIMEOUT = 5.0  # seconds without an answer
CHUNK = 1 << 16  # bytes


def check_reachable(url: str) -> None:
    """Return once the server has answered anything; raise OSError after TIMEOUT seconds.

    The request runs on a thread, because DNS lookups can hang and have no timeout.
    """
    answer: Future[None] = Future()

    def ask() -> None:
        try:
            urllib.request.urlopen(url, timeout=TIMEOUT).close()
            answer.set_result(None)
        except urllib.error.HTTPError as refusal:
            refusal.close()
            answer.set_result(None)
        except Exception as error:
            answer.set_exception(OSError(f"no connection: {getattr(error, 'reason', error)}"))

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer.result(TIMEOUT)
    except TimeoutError:
        raise OSError(f"no answer within {TIMEOUT:.0f} seconds") from None


def fetch(url: str) -> bytes:
    """Return the content of a URL; raise OSError if the server fails or is silent for TIMEOUT seconds."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as reply:
            chunks = iter(lambda: reply.read(CHUNK), b"")
            expected = -(-int(reply.headers.get("Content-Length", 0)) // CHUNK) or None
            return b"".join(progress(chunks, expected, f"Downloading {url.rsplit('/', 1)[-1]}"))
    except urllib.error.HTTPError as refusal:
        refusal.close()
        raise OSError(f"the server answered {refusal.code} {refusal.reason}") from None
    except (HTTPException, ValueError) as error:
        raise OSError(str(error)) from error
