"""The composition root: the one place that names adapters."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from atlas.adapters.aes_secret_box import MASTER_KEY_BYTES, AesSecretBox
from atlas.adapters.data_dir import (
    DataDirectory,
    lock_gateway,
    lock_projector,
    read_or_create_private,
    write_private,
)
from atlas.adapters.embedded_log import EmbeddedLog
from atlas.adapters.http_sender import HttpSender
from atlas.adapters.kafka_acceptor import KafkaAcceptor
from atlas.adapters.kafka_log import KafkaLog
from atlas.adapters.kafka_settings import KafkaSecurity, KafkaSettings
from atlas.adapters.sqlite_follower import follow_read_model
from atlas.adapters.sqlite_read_model import open_read_model
from atlas.adapters.sqlite_stores import SqliteStores
from atlas.adapters.system_clock import SystemClock
from atlas.core.facts import CONTROL_TOPIC, LIFECYCLE_TOPIC
from atlas.ports.log import Log
from atlas.ports.read_model import ReadModel
from atlas.ports.sender import Sender
from atlas.process import Atlas, Beneath, KeepingAcceptor, OpenAcceptor, Options, Role, World
from atlas.runtime.newest_record import newest_timestamp_ms
from atlas.runtime.producer_log import ProducerLog
from atlas.runtime.telemetry import Metrics
from atlas.runtime.trimmer import LIFECYCLE_RETENTION_MS

#: What whoever starts Atlas needs of it, without naming an adapter.
__all__ = [
    "MASTER_KEY_BYTES",
    "Atlas",
    "DataDirectory",
    "KafkaSecurity",
    "KafkaSettings",
    "Options",
    "Role",
    "World",
    "lock_gateway",
    "lock_projector",
    "open_embedded",
    "open_on_kafka",
    "read_or_create_private",
    "write_private",
]

#: From glibc's malloc.h.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
#: What glibc begins with.
_MALLOC_THRESHOLD_BYTES: Final = 128 * 1024
#: Shards of an embedded log; fixed when it is made.
EMBEDDED_SHARDS: Final = 4
#: How long a thread may keep the interpreter from another. A commit of the log's writer thread beside a
#: busy event loop takes 11 ms with Python's default of 5 ms, and 1.6 ms with this (measured).
SWITCH_INTERVAL_S: Final = 0.0005
_LOG_FILE: Final = "log.db"
_READ_MODEL_FILE: Final = "read-model.db"
_KEYS_FILE: Final = "keys.db"

log_line = structlog.get_logger()


async def open_embedded(
    data_dir: Path, options: Options, world: World | None = None, metrics: Metrics | None = None
) -> Atlas:
    """Open the embedded log and the read model in `data_dir`, which this process must own.

    Raises:
        LogUnavailable: the log cannot be opened.
        StoreUnavailable: the read model cannot be opened.
    """
    world = _prepared(world)
    async with AsyncExitStack() as opened:
        log = await EmbeddedLog.open(
            data_dir / _LOG_FILE, world.clock, shards=EMBEDDED_SHARDS, threads=world.threads
        )
        opened.push_async_callback(log.close)
        if isinstance(world.clock, SystemClock):
            world.clock.floor(log.newest_timestamp_ms)
        await _provide_topics(log)
        path = data_dir / _READ_MODEL_FILE if world.threads else None
        read_model = await open_read_model(path, entropy=world.entropy)
        opened.push_async_callback(read_model.close)
        beneath = Beneath(
            log=log,
            read_model=read_model,
            secret_box=AesSecretBox(options.master_key, world.entropy) if options.master_key else None,
            stores=SqliteStores(path, entropy=world.entropy) if path else None,
            open_acceptor=_the_log_itself(log) if Role.GATEWAY in options.roles else None,
            sender=_sender(options, world),
        )
        atlas = Atlas(options, world, beneath, metrics or Metrics())
        opened.pop_all()  # from here on they are the application's to close
        return atlas


async def open_on_kafka(
    kafka: KafkaSettings, data_dir: Path, options: Options, metrics: Metrics | None = None
) -> Atlas:
    """Connect to Kafka, and open what the process's roles keep in `data_dir`.

    A gateway must own its key index there, a projector the read model; others only read that.

    Raises:
        LogUnavailable: Kafka, or the key index, cannot be used now.
        LogError: the cluster holds an installation that does not fit these settings.
        StoreUnavailable: the read model cannot be opened.
    """
    world = _prepared(None)
    async with AsyncExitStack() as opened:
        log = await KafkaLog.open(kafka, world.clock)
        opened.push_async_callback(log.close)
        await _provide_topics(log)
        beside = data_dir / f"kafka-{log.cluster_id}"  # what was made from one log says nothing of another
        beside.mkdir(mode=0o700, exist_ok=True)
        if isinstance(world.clock, SystemClock):
            world.clock.floor(await newest_timestamp_ms(log))
        path = beside / _READ_MODEL_FILE
        read_model: ReadModel
        if Role.PROJECTOR in options.roles:
            read_model = await open_read_model(path, entropy=world.entropy)
        else:
            read_model = follow_read_model(path)
        opened.push_async_callback(read_model.close)
        open_acceptor = None
        if Role.GATEWAY in options.roles:
            open_acceptor = partial(KafkaAcceptor.open, log, beside / _KEYS_FILE, world.clock)
        beneath = Beneath(
            log=log,
            read_model=read_model,
            secret_box=AesSecretBox(options.master_key, world.entropy) if options.master_key else None,
            stores=SqliteStores(path, entropy=world.entropy) if Role.PROJECTOR in options.roles else None,
            open_acceptor=open_acceptor,
            sender=_sender(options, world),
        )
        atlas = Atlas(options, world, beneath, metrics or Metrics())
        opened.pop_all()
        return atlas


def _prepared(world: World | None) -> World:
    """The world given, or the real one; with threads the interpreter is set up for them."""
    world = world or World(clock=SystemClock(_step_refused))
    if world.threads:
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        _give_memory_back()
    return world


def _sender(options: Options, world: World) -> Sender | None:
    if Role.DELIVERER not in options.roles:
        return None
    return world.sender or HttpSender(world.clock, options.allow_networks)


def _the_log_itself(log: EmbeddedLog) -> OpenAcceptor:
    """The embedded log decides on a key and appends in one transaction."""

    async def accepts(_: ProducerLog) -> KeepingAcceptor:
        return log

    return accepts


async def _provide_topics(log: Log) -> None:
    """The two topics that every installation has; whichever process comes first makes them."""
    await log.create_topic(CONTROL_TOPIC, 1, None)
    await log.create_topic(LIFECYCLE_TOPIC, log.shards, LIFECYCLE_RETENTION_MS)


def _step_refused(step_s: float) -> None:
    log_line.warning("clock step refused", step_s=step_s)


def _give_memory_back() -> None:
    """Have glibc share what is freed, and return it.

    It gives each thread an arena of its own, and memory freed in one is no use to another: 154 MiB after
    20,000 deliveries, 135 MiB with one arena (measured). And it raises its thresholds with each large block
    that is freed, up to 32 MiB, so that bodies and batches come to lie among what stays: 203 MB after 150,000
    deliveries that were parked, 185 MB with thresholds that are fixed.
    """
    with contextlib.suppress(AttributeError, OSError):  # not glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_MMAP_THRESHOLD, _MALLOC_THRESHOLD_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _MALLOC_THRESHOLD_BYTES)
