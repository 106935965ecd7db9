"""The workers of a Dask cluster as an Executor; the only place that knows Dask."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import Any

from einsum_cascade.errors import DataError

from .provenance import model_version
from .workers import Workers

_CONNECT_S = 10


@contextlib.contextmanager
def connected(address: str) -> Iterator[Workers]:
    """Give the workers of a Dask scheduler.

    A batch whose worker dies is run again by another; a lost scheduler is one error, and what was done is saved.

    Raises:
        DataError: Dask is not installed, no scheduler answers, or it has no worker.
    """
    try:
        import distributed
        from distributed.client import FutureCancelledError
        from distributed.comm.addressing import get_address_host_port
        from distributed.comm.core import CommClosedError
        from distributed.scheduler import KilledWorker
    except ImportError:
        message = "--scheduler needs Dask; install it: pip install 'einsum-cascade[distributed]'"
        raise DataError(message) from None
    with _quiet():
        try:
            # A client that was begun and given up complains of itself later, so what is no address never begins one.
            check: Any = get_address_host_port
            check(address)
            make: Any = distributed.Client
            client = make(address, timeout=_CONNECT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"no Dask scheduler answers at {address}: {reason}") from None
        try:
            threads = sum(client.nthreads().values())
            if not threads:
                raise DataError(
                    f"the Dask scheduler at {address} has no worker; start one: dask worker {address}"
                )
            _check_versions(client)
            lost = (CancelledError, FutureCancelledError, CommClosedError, KilledWorker)
            yield Workers(client.get_executor(pure=False), threads, lost, f"the Dask cluster at {address}")
        finally:
            client.close(timeout=1)


def _check_versions(client: Any) -> None:
    """Refuse workers with another model: their results would be stored as those of this one."""
    own = model_version()
    try:
        found = client.run(model_version)
    except ImportError as error:
        raise DataError(
            f"the Dask workers cannot import this package: {error}; install it there too"
        ) from None
    for worker, version in found.items():
        if version != own:
            raise DataError(
                f"the Dask worker {worker} has model version {version}, here it is {own}; update it"
            )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask's own lines about a lost connection away; the one error that matters is raised."""
    # Dask gives some loggers below "distributed" levels of their own, so each is silenced by name.
    names = [n for n in logging.root.manager.loggerDict if n.partition(".")[0] == "distributed"]
    loggers = [logging.getLogger(n) for n in dict.fromkeys(["distributed", *names])]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
