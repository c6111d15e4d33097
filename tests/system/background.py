"""A load that runs in a thread beside a test, and keeps a ledger."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from tests.ledger import Ledger


class BackgroundLoad:
    """`with …Load(…) as load:` runs `_run` until the block ends, or `finish`, which raises what it has failed with."""

    def __init__(self, name: str):
        self.ledger = Ledger()
        self._stop = threading.Event()
        """It is to offer no more."""
        self._patience_s = 0.0
        """How long it may then wait until all is settled; 0: nobody wants the ledger."""
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run_and_tell, name=f"load {name}")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def finish(self, patience_s: float) -> Ledger:
        """Offer no more; the ledger, once all is settled or so much time has passed."""
        self._patience_s = patience_s
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self.ledger

    def _run(self) -> None:
        """To be given: all of the load, and the ledger in the end."""
        raise NotImplementedError

    def _run_and_tell(self) -> None:
        try:
            self._run()
        except BaseException as error:
            self._error = error
