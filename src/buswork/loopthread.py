"""An asyncio loop in a thread of its own, for programs that have none; used from any thread."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, ParamSpec, TypeVar

from buswork.errors import TimedOut

P = ParamSpec("P")
T = TypeVar("T")


class LoopThread:
    """`closed` makes the error of those who come too late, or still wait at the end."""

    def __init__(self, name: str, closed: Callable[[str], Exception]) -> None:
        self._name = name
        self._closed = closed
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None

    def open(self, living: Callable[[], AbstractAsyncContextManager[object]]) -> None:
        """Starts the thread, which lives as long as this context, made and entered there."""
        opened: concurrent.futures.Future[None] = concurrent.futures.Future()
        life = self._live(living, opened)
        thread = threading.Thread(target=asyncio.run, args=(life,), name=self._name, daemon=True)
        self._thread = thread
        thread.start()
        try:
            opened.result()
        except BaseException:
            self.close()
            raise

    async def _live(
        self,
        living: Callable[[], AbstractAsyncContextManager[object]],
        opened: concurrent.futures.Future[None],
    ) -> None:
        """The life of the thread: what is left when it ends, asyncio.run cancels."""
        stop = asyncio.Event()
        try:
            with self._lock:
                if self._thread is not threading.current_thread():
                    raise self._closed("it was closed meanwhile")
                self._loop, self._stop = asyncio.get_running_loop(), stop
            async with living():
                opened.set_result(None)
                await stop.wait()
        except Exception as error:
            if opened.done():
                raise
            opened.set_exception(error)
        finally:
            with self._lock:
                self._loop = self._stop = None
            # Whoever was just before this has left a callback, which has to start now or never.
            await asyncio.sleep(0)

    def close(self) -> None:
        """Whoever waits in another thread gets the error."""
        with self._lock:
            loop, stop, thread = self._loop, self._stop, self._thread
            self._loop = self._stop = self._thread = None
            if loop is not None and stop is not None:
                loop.call_soon_threadsafe(stop.set)
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Runs it in the thread, and waits for its result; TimedOut if it takes longer."""
        with self._lock:
            try:
                loop = self._usable_loop()
            except BaseException:
                coroutine.close()
                raise
            if timeout is not None:
                coroutine = _within(timeout, coroutine)
            future = asyncio.run_coroutine_threadsafe(coroutine, loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise self._closed("it was closed meanwhile") from None
        except BaseException:
            future.cancel()
            raise

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls it in the thread: for what doesn't wait, in half the time of `run`."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()

        def called() -> None:
            try:
                future.set_result(function(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        with self._lock:
            self._usable_loop().call_soon_threadsafe(called)
        return future.result()

    def post(self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Calls it in the thread some time soon, if that is still there."""
        with self._lock:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(lambda: function(*args, **kwargs))

    def _usable_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise self._closed("it is not open")
        if self._thread is threading.current_thread():
            raise RuntimeError("a callback can't wait for the loop that called it")
        return self._loop


async def _within(seconds: float, coroutine: Coroutine[Any, Any, T]) -> T:
    try:
        async with asyncio.timeout(seconds):
            return await coroutine
    except TimeoutError:
        raise TimedOut(f"it was not done in {seconds:g} s") from None
