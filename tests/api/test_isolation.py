"""No key ever sees another's anything (guarantee G9): tenants full of canaries, every path with every key."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from itertools import permutations
from typing import Final

import pytest

from tests.api.atlas_process import EVENT, a_key, answered, every_page, refused, running, wait_for_status
from tests.api.receiver import Receiver, signed_by_the_reference
from tests.api.tenants import SHARED_STREAM, Tenant, canary, tenants
from tests.asgi_client import Answer
from tests.http_client import Client, check_form
from tests.processes import Dev, eventually, request

NO_EVENT: Final = "evt_01HX9YQK2T7V3M4ZB6F5N0WJ1A"
NO_KEY: Final = "key_01HX9YQK2T7V3M4ZB6F5N0WJ1A"
NO_ENDPOINT: Final = "we_01HX9YQK2T7V3M4ZB6F5N0WJ1A"
LISTS: Final = (
    "/v1/events",
    "/v1/event-streams",
    "/v1/workflows",
    "/v1/webhook-endpoints",
    "/v1/api-keys",
    "/v1/replays",
)
#: What a key that is scoped to streams has nothing to do with.
CONTROL: Final = ("/v1/workflows", "/v1/webhook-endpoints", "/v1/api-keys", "/v1/replays")


class World:
    """An installation with its tenants, all of whose events have been delivered."""

    def __init__(self, dev: Dev, receiver: Receiver) -> None:
        self.dev = dev
        self.receiver = receiver
        self.tenants = tenants(dev, receiver)
        for tenant in self.tenants:
            receiver.wait_for(3, tenant.path)
            for event_id in tenant.event_ids.values():
                wait_for_status(tenant.full, event_id, "delivered")
            listed = f"/v1/webhook-endpoints/{tenant.endpoint}/deliveries"
            eventually(lambda c=tenant.full, at=listed: len(every_page(c, at)) == 2, "two outcomes are told")  # type: ignore[misc]  # bound at once

    def foreign(self, tenant: Tenant) -> list[str]:
        """Canaries and secrets of everybody else."""
        others = [other for other in self.tenants if other is not tenant]
        return [text for other in others for text in (*other.canaries(), *other.secret)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Receiver() as receiver, running(tmp_path_factory.mktemp("atlas")) as dev:
        yield World(dev, receiver)


def shown(answer: Answer) -> str:
    """Everything that a caller gets to see."""
    return f"{answer.headers}{answer.body.decode()}"


def readable(tenant: Tenant) -> list[str]:
    """Every path with something to read in it, of this tenant."""
    events = [
        f"/v1/events/{event_id}{rest}"
        for event_id in tenant.event_ids.values()
        for rest in ("", "/payload", "/attempts")
    ]
    streams = [f"/v1/event-streams/{name}" for name in tenant.streams.values()]
    endpoint = f"/v1/webhook-endpoints/{tenant.endpoint}"
    targets = [f"/v1/workflows/{tenant.workflow}", endpoint]
    targets += [*(f"{target}/health" for target in targets), f"{endpoint}/deliveries"]
    return [*LISTS, *events, *streams, *targets]


# --- what each key sees


def test_every_key_sees_its_own_and_nobody_elses(world: World) -> None:
    for tenant in world.tenants:
        for label, client in tenant.keys.items():
            answers = [client.get(target) for target in readable(tenant)]
            text = "".join(shown(answer) for answer in answers)
            assert not [each for each in world.foreign(tenant) if each in text], (tenant.name, label)
            if label == "full":
                assert {answer.status for answer in answers} == {200}
                assert [each for each in tenant.canaries() if each in text], "canaries do show"
            assert not [each for each in tenant.secret if each in text], "secrets are shown once only"


def test_a_full_key_sees_all_that_was_written_but_what_is_masked(world: World) -> None:
    for tenant in world.tenants:
        text = "".join(shown(tenant.full.get(target)) for target in readable(tenant))
        text += shown(tenant.full.get("/v1/workflows/wf_shared"))
        unseen = [each for each in tenant.canaries() if each.lower() not in text.lower()]
        # Ordering keys are nowhere shown, header values are masked, a workspace's name is the operator's.
        assert all(re.match("event|value|workspace", each) for each in unseen)
        assert len(unseen) == 3 + 3 + (1 if tenant.name.startswith("1") else 0)


def test_a_scoped_key_sees_its_streams_only(world: World) -> None:
    for tenant in world.tenants:
        client = tenant.keys["scoped"]
        text = ""
        for target in readable(tenant):
            answer = client.get(target)
            hidden = tenant.streams["b"] in target or tenant.event_ids["b"] in target
            control = target.startswith(CONTROL)
            assert answer.status == (403 if control else 404 if hidden else 200), target
            text += "" if hidden else shown(answer)
        assert not [each for each in tenant.only_b if each in text]
        assert tenant.event_ids["b"] not in text
        for name in tenant.only_b[1:]:
            for filtered in (f"actor_id={name}", f"tenant_id={name}", f"idempotency_key={name}"):
                assert answered(client.get(f"/v1/events?{filtered}"), 200)["data"] == []
        # As a cursor another's event is only a place in time.
        page = answered(client.get(f"/v1/events?cursor={tenant.event_ids['b']}"), 200)
        assert {item["stream"] for item in page["data"]} == {SHARED_STREAM}


def test_a_publishable_key_sees_nothing_and_sends_to_its_streams_only(world: World) -> None:
    for tenant in world.tenants:
        client = tenant.keys["publishable"]
        for target in readable(tenant):
            refused(client.get(target), 403, "permission_denied")
        refused(client.post("/v1/events", {**EVENT, "stream": tenant.streams["b"]}), 404, "stream_not_found")
        batch = {"events": [{**EVENT, "stream": tenant.streams["b"]}]}
        items = answered(client.post("/v1/events/batch", batch), 202)["data"]
        assert [item["error"]["code"] for item in items] == ["stream_not_found"]
        answer = client.post("/v1/events", {})
        assert answer.header("access-control-allow-origin") == "*"
        assert tenant.full.post("/v1/events", {}).header("access-control-allow-origin") is None


# --- another's names and ids


def probes(other: Tenant) -> list[tuple[str, str, str]]:
    """Requests that name what is another's, and the same with what is nobody's."""
    rows = [
        ("GET", f"/v1/events/{event_id}{rest}", f"/v1/events/{NO_EVENT}{rest}")
        for event_id in other.event_ids.values()
        for rest in ("", "/payload", "/attempts")
    ]
    for method in ("GET", "PATCH", "DELETE"):
        rows.append((method, f"/v1/event-streams/{other.streams['a']}", "/v1/event-streams/nobody"))
        rows.append((method, f"/v1/workflows/{other.workflow}", "/v1/workflows/wf_nobody"))
    rows += [
        ("POST", f"/v1/workflows/{other.workflow}/{verb}", f"/v1/workflows/wf_nobody/{verb}")
        for verb in ("rotate-secret", "disable", "reactivate")
    ]
    endpoint, nobodys = (f"/v1/webhook-endpoints/{each}" for each in (other.endpoint, NO_ENDPOINT))
    rows += [(method, endpoint, nobodys) for method in ("GET", "PATCH", "DELETE")]
    rows += [("POST", f"{endpoint}/{verb}", f"{nobodys}/{verb}") for verb in ("rotate-secret", "disable")]
    rows.append(("POST", f"{endpoint}/reactivate", f"{nobodys}/reactivate"))
    rows.append(("GET", f"{endpoint}/deliveries", f"{nobodys}/deliveries"))
    rows.append(("GET", f"{endpoint}/health", f"{nobodys}/health"))
    rows.append(("GET", f"/v1/workflows/{other.workflow}/health", "/v1/workflows/wf_nobody/health"))
    rows += [
        ("POST", f"/v1/events/{event_id}/replay", f"/v1/events/{NO_EVENT}/replay")
        for event_id in other.event_ids.values()
    ]
    for key_id in other.key_ids:
        rows.append(("DELETE", f"/v1/api-keys/{key_id}", f"/v1/api-keys/{NO_KEY}"))
        rows.append(("POST", f"/v1/api-keys/{key_id}/rotate", f"/v1/api-keys/{NO_KEY}/rotate"))
    rows.append(("GET", f"/v1/events?stream={other.streams['a']}", "/v1/events?stream=nobody"))
    rows.append(("GET", f"/v1/events?workflow_id={other.workflow}", "/v1/events?workflow_id=wf_nobody"))
    return rows


def without_what_was_named(answer: Answer, target: str) -> tuple[int, str]:
    """Status and body of an answer, but for the request's id and the name that the caller sent."""
    text = answer.body.decode().replace(answer.header("x-request-id") or "-", "*")
    for part in re.split("[/?=]", target):
        if re.search("nobody|[0-9A-Za-z]{16}", part):
            text = text.replace(part, "*")
    return answer.status, text


def test_what_is_anothers_looks_like_what_is_nobodys(world: World) -> None:
    for tenant, other in permutations(world.tenants, 2):
        for method, target, nowhere in probes(other):
            answer, unknown = tenant.full.request(method, target), tenant.full.request(method, nowhere)
            check_form(answer)
            assert without_what_was_named(answer, target) == without_what_was_named(unknown, nowhere), target
    for tenant in world.tenants:
        assert {tenant.full.get(target).status for target in readable(tenant)} == {200}, "nothing was changed"


def test_anothers_values_find_nothing(world: World) -> None:
    for tenant, other in permutations(world.tenants, 2):
        texts = [each for each in other.hidden if each.startswith("event")]
        for name in ("type", "actor_id", "tenant_id", "idempotency_key", f"metadata.{texts[6]}"):
            for text in texts[:9]:
                value = f"order.{text}" if name == "type" else text
                page = answered(tenant.full.get(f"/v1/events?{name}={value}"), 200)
                assert page == {"object": "list", "data": [], "has_more": False, "next_cursor": None}
        mine = {item["id"] for item in every_page(tenant.full, "/v1/events")}
        walked = every_page(
            tenant.full, f"/v1/events?received_after=1970-01-01T00:00:00Z&stream={SHARED_STREAM}"
        )
        assert {item["id"] for item in walked} == {tenant.event_ids["shared"]} <= mine


def test_anothers_routes_and_streams_cannot_be_named(world: World) -> None:
    for tenant, other in permutations(world.tenants, 2):
        stream = {"name": canary("s")[:20], "default_routes": [other.workflow]}
        assert tenant.full.post("/v1/event-streams", stream).field == "default_routes.0"
        key = {"kind": "publishable", "streams": [other.streams["a"]]}
        assert tenant.full.post("/v1/api-keys", key).field == "streams.0"
        endpoint = {"url": "https://acme.example/", "streams": [other.streams["a"]]}
        assert tenant.full.post("/v1/webhook-endpoints", endpoint).field == "streams.0"
        own = f"/v1/webhook-endpoints/{tenant.endpoint}"
        assert tenant.full.patch(own, {"streams": endpoint["streams"]}).field == "streams.0"
        replay = f"/v1/events/{tenant.event_ids['a']}/replay"
        assert tenant.full.post(replay, {"workflow_ids": [other.workflow]}).field == "workflow_ids.0"
        sent = tenant.full.post("/v1/events", {**EVENT, "stream": other.streams["a"]})
        refused(sent, 404, "stream_not_found")


# --- what goes out


def test_each_receiver_gets_its_own_signed_with_its_own_secret(world: World) -> None:
    for tenant in world.tenants:
        deliveries = world.receiver.at(tenant.path)
        assert {each.value["id"] for each in deliveries} == set(tenant.event_ids.values())
        signing = [each for each in tenant.secret if each.startswith("whsec_")]
        others = [each for each in world.foreign(tenant) if each.startswith("whsec_")]
        for delivery in deliveries:
            text = f"{dict(delivery.headers)}{delivery.body.decode()}"
            assert not [each for each in world.foreign(tenant) if each in text]
            assert not [each for each in tenant.secret if each in text]
            valid = [each for each in signing if signed_by_the_reference(delivery, each, time.time())]
            assert len(valid) == 1
            assert not [each for each in others if signed_by_the_reference(delivery, each, time.time())]


def test_each_endpoint_is_told_of_its_own_events_signed_with_its_own_secret(world: World) -> None:
    for tenant in world.tenants:
        told = world.receiver.at(tenant.told_path)
        wanted = {tenant.event_ids["a"], tenant.event_ids["shared"]}
        assert {each.value["data"]["event_id"] for each in told} == wanted
        for delivery in told:
            text = f"{dict(delivery.headers)}{delivery.body.decode()}"
            assert not [each for each in (*world.foreign(tenant), *tenant.only_b) if each in text]
            valid = [
                each
                for each in (*tenant.secret, *world.foreign(tenant))
                if each.startswith("whsec_") and signed_by_the_reference(delivery, each, time.time())
            ]
            assert len(valid) == 1
            assert valid[0] in tenant.secret


# --- keys, and what opens what


def test_an_operator_token_opens_no_workspace_and_no_key_opens_admin(world: World) -> None:
    dev = world.dev
    with Client(dev.port, dev.operator_token) as operator:
        for target in readable(world.tenants[0]):
            refused(operator.get(target), 401, "authentication_failed")
        refused(operator.post("/v1/events", EVENT), 401, "authentication_failed")
        listed = shown(operator.get("/admin/v1/workspaces"))
        seen = [text for tenant in world.tenants for text in tenant.canaries() if text in listed]
        assert {re.sub("[0-9a-f]{16}$", "", text) for text in seen} == {"workspace"}
    for tenant in world.tenants:
        for client in tenant.keys.values():
            for target in ("/admin/v1/workspaces", "/admin/v1/workspaces/ws_0", "/admin/v1/nothing"):
                refused(client.get(target), 401, "authentication_failed")
            refused(client.post("/admin/v1/workspaces", {"name": "x"}), 401, "authentication_failed")


def test_a_revoked_key_is_refused_on_the_next_request_of_its_connection(world: World) -> None:
    full = world.tenants[0].full
    for _ in range(20):
        key_id, client = a_key(full)
        assert client.get("/v1/api-keys").status == 200
        answered(full.delete(f"/v1/api-keys/{key_id}"), 200)
        refused(client.get("/v1/api-keys"), 401, "authentication_failed")


def test_a_key_in_the_address_opens_nothing(world: World) -> None:
    key = world.dev.live_secret_key
    with Client(world.dev.port) as anonymous:
        for query in (f"api_key={key}", f"access_token={key}", f"authorization=Bearer%20{key}"):
            refused(anonymous.get(f"/v1/events?{query}"), 401, "authentication_failed")
        refused(anonymous.get("/v1/events", [("Cookie", f"key={key}")]), 401, "authentication_failed")


# --- metrics, logs, files


def test_metrics_and_logs_show_no_data(world: World) -> None:
    for tenant in world.tenants:
        data = tenant.hidden[-1]
        for body in (b'{"%b' % data.encode(), b'{"%b":1,"%b":2}' % (data.encode(), data.encode())):
            tenant.full.request("POST", "/v1/events", body=body)
            tenant.full.request("POST", f"/v1/{data}", body=body, headers=[("Idempotency-Key", data)])
        tenant.full.request(data.upper()[:20], f"/v1/events?{data}={data}")
    metrics = request(world.dev.url, "GET", "/metrics").content.decode()
    ready = request(world.dev.url, "GET", "/readyz").content.decode()
    log = world.dev.stderr()
    assert '"delivery attempt"' in log
    everything = [text for tenant in world.tenants for text in (*tenant.canaries(), *tenant.secret)]
    everything += [world.dev.live_secret_key, world.dev.test_secret_key, world.dev.operator_token]
    ids = [text for tenant in world.tenants for text in tenant.event_ids.values()]
    for text in (*everything, *ids, "ws_"):
        assert text not in metrics
        assert text not in ready
    named = [text for tenant in world.tenants for text in tenant.open]
    assert not [text for text in everything if text in log and text not in named]
    assert [text for text in named if text in log], "a delivery's line does name its workflow"


def test_files_hold_no_key_and_no_signing_secret(world: World) -> None:
    files = {path.name: path.read_bytes() for path in world.dev.data_dir.iterdir() if path.is_file()}
    whole = b"".join(files.values())
    for tenant in world.tenants:
        assert tenant.streams["a"].encode() in whole, "this does look at what is written"
        for text in tenant.secret:
            assert text.encode() not in whole
            assert text.rpartition("_")[2].encode() not in whole
