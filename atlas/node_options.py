"""From what the command line gave to what the processes on Kafka take."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, Final

import click

from atlas.bootstrap import KafkaSecurity, KafkaSettings, Role
from atlas.core.addresses import LOOPBACK
from atlas.core.entities import Quota
from atlas.core.targets import PORT_MAX
from atlas.node import NodeOptions
from atlas.settings import KAFKA_PASSWORD_VARIABLE, SETTINGS
from atlas.up import UpOptions

_ROLES: Final = {"gateway": Role.GATEWAY, "projector": Role.PROJECTOR, "deliverer": Role.DELIVERER}


def node_options(command: str, given: Mapping[str, Any]) -> NodeOptions:
    """Options of `atlas gateway`, `atlas projector` or `atlas deliverer`.

    Args:
        given: by the names of the parameters.
    """
    role = _ROLES[command]
    api: dict[str, Any] = {}
    if role is Role.GATEWAY:
        quota = Quota(given["quota_per_minute"], given["quota_burst"])
        api = {"quota": quota, "topics_max": given["topics_max"]}
    return NodeOptions(
        role=role,
        kafka=_kafka(given, client_id=f"atlas-{command}"),
        data_dir=given["data_dir"],
        host=given["host"] if role is Role.GATEWAY else given["ops_host"],
        port=given["port"] if role is Role.GATEWAY else given["ops_port"],
        port_flag="--port" if role is Role.GATEWAY else "--ops-port",
        server=given["server"],
        allow_networks=given.get("allow_networks") or (),
        json=given["as_json"],
        first_workspace=given.get("first_workspace", False),
        supervised=given["supervised"],
        **api,
    )


def up_options(given: Mapping[str, Any], *, deliverers: int, as_json: bool) -> UpOptions:
    """Options of `atlas up`: what it was given goes on to the processes that have the setting."""
    networks = ",".join(str(network) for network in given["allow_networks"] or LOOPBACK)
    given = {**given, "allow_networks": networks}
    # One after the other, the projector's first; 0 is any free one for each of them.
    first = given["ops_port"]
    ops_ports = [first + number if first else 0 for number in range(1 + deliverers)]
    if ops_ports[-1] > PORT_MAX:
        raise click.UsageError(f"{len(ops_ports)} ports from --ops-port {first} on go past {PORT_MAX}")
    return UpOptions(
        gateway=_arguments("gateway", given),
        projector=_arguments("projector", given),
        deliverers=[_arguments("deliverer", {**given, "ops_port": port}) for port in ops_ports[1:]],
        addresses=[
            (given["host"], given["port"], "--port"),
            *((given["ops_host"], port, "--ops-port") for port in ops_ports),
        ],
        json=as_json,
    )


def _kafka(given: Mapping[str, Any], client_id: str) -> KafkaSettings:
    username = given["kafka_username"]
    return KafkaSettings(
        bootstrap=given["kafka"],
        shards=given["kafka_shards"],
        replication=given["kafka_replication"],
        min_insync=given["kafka_min_insync"],
        client_id=client_id,
        security=KafkaSecurity(
            tls=given["kafka_tls"],
            ca_file=given["kafka_ca_file"],
            cert_file=given["kafka_cert_file"],
            key_file=given["kafka_key_file"],
            mechanism=given["kafka_sasl_mechanism"],
            username=username,
            password=os.environ.get(KAFKA_PASSWORD_VARIABLE, "") if username is not None else None,
        ),
    )


def _arguments(command: str, given: Mapping[str, Any]) -> list[str]:
    return [*_flags(command, given)]


def _flags(command: str, given: Mapping[str, Any]) -> Iterable[str]:
    for setting in SETTINGS:
        if command not in setting.used_by or setting.parameter not in given:
            continue
        value = given[setting.parameter]
        if setting.is_flag:
            yield from [setting.flag] if value else []
        elif value is not None:
            yield from (setting.flag, str(value))
