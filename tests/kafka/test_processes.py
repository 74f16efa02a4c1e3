"""Gateway, projector and deliverers as processes of their own, on a real broker."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from atlas.core.facts import event_topic
from tests.api.receiver import Delivery, Receiver
from tests.kafka.installation import READY_MAX_S, SHARDS, Installation, Node
from tests.kafka_broker import own_broker
from tests.orders import await_delivered
from tests.processes import eventually, request

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cluster of this module's own: an installation's topics have fixed names."""
    broker = own_broker(tmp_path_factory.mktemp("broker"))
    try:
        yield broker.start()
    finally:
        broker.stop()


@pytest.fixture(scope="module")
def atlas(bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with Installation(tmp_path_factory.mktemp("atlas"), bootstrap) as installation:
        installation.start_all()
        yield installation


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        yield made


def event(stream: str, number: int = 0) -> dict[str, Any]:
    return {
        "stream": stream,
        "type": "order.fulfilled",
        "occurred_at": "2026-05-18T14:22:11Z",
        "data": {"number": number},
    }


def make_route(gateway: Node, name: str, receiver: Receiver, **workflow: Any) -> None:
    """A stream and a workflow of that name, the one routed to the other."""
    target = {"id": f"wf_{name}", "url": receiver.url(f"/{name}"), **workflow}
    made = gateway.request("POST", "/v1/workflows", target)
    assert made.status == 201, made
    stream = {"name": f"stream-{name}", "default_routes": [f"wf_{name}"]}
    made = gateway.request("POST", "/v1/event-streams", stream)
    assert made.status == 201, made


def send(gateway: Node, name: str, count: int = 1) -> list[str]:
    """Ids of so many events, sent in one batch."""
    events = [
        {**event(f"stream-{name}", number), "idempotency_key": f"{name}-{number}"} for number in range(count)
    ]
    sent = gateway.request("POST", "/v1/events/batch", {"events": events})
    assert (sent.status, sent.value["accepted"]) == (202, count), sent
    return [item["event"]["id"] for item in sent.value["data"]]


def await_status(gateway: Node, ids: list[str], status: str = "delivered") -> None:
    for event_id in ids:

        def shown(event_id: str = event_id) -> bool:
            answer = gateway.request("GET", f"/v1/events/{event_id}")
            assert answer.status in {200, 503}, answer  # 503: nobody projects just now
            return answer.status == 200 and answer.value["status"] == status

        eventually(shown, f"{event_id} is {status}", READY_MAX_S)


def numbers(deliveries: list[Delivery]) -> list[int]:
    return sorted(delivery.value["data"]["number"] for delivery in deliveries)


def test_a_new_stream_delivers_its_first_event_within_a_second_and_without_a_rebalance(
    atlas: Installation, receiver: Receiver
) -> None:
    gateway, _, deliverer = atlas.nodes[:3]
    claims = deliverer.claims()
    tries_s = []
    for number in range(3):
        make_route(gateway, f"new{number}", receiver)
        started_s = time.monotonic()
        send(gateway, f"new{number}")
        receiver.wait_for(1, f"/new{number}")
        tries_s.append(time.monotonic() - started_s)
    assert min(tries_s) < 1.0, tries_s  # the machine is shared: one of them shows that it can be done
    assert deliverer.claims() == claims


def test_what_was_accepted_shows_at_once_and_pages_are_whole(atlas: Installation, receiver: Receiver) -> None:
    gateway = atlas.nodes[0]
    make_route(gateway, "pages", receiver)
    ids = send(gateway, "pages", 120)
    assert gateway.request("GET", f"/v1/events/{ids[-1]}").status == 200
    walked: list[str] = []
    cursor = ""
    while True:
        page = gateway.request("GET", f"/v1/events?stream=stream-pages&limit=50{cursor}")
        assert page.status == 200
        walked += [item["id"] for item in page.value["data"]]
        if not page.value["has_more"]:
            break
        cursor = f"&cursor={page.value['next_cursor']}"
    assert sorted(walked) == sorted(ids)
    assert numbers(receiver.wait_for(120, "/pages")) == list(range(120))
    await_status(gateway, ids)


def test_filters_decide_at_acceptance_and_for_good(atlas: Installation, receiver: Receiver) -> None:
    gateway = atlas.nodes[0]
    make_route(gateway, "even", receiver, filter={"data.number": [0, 2, 4]})
    make_route(gateway, "odd", receiver, filter={"data.number": [{"anything_but": [0, 2, 4]}]})
    both = {"default_routes": ["wf_odd", "wf_even"]}
    assert gateway.request("PATCH", "/v1/event-streams/stream-even", both).status == 200
    ids = send(gateway, "even", 5)
    await_status(gateway, ids)
    assert numbers(receiver.at("/even")) == [0, 2, 4]
    assert numbers(receiver.at("/odd")) == [1, 3]
    first = gateway.request("POST", "/v1/events", event("stream-even", 6), **{"Idempotency-Key": "filters"})
    assert [route["workflow_id"] for route in first.value["routes"]] == ["wf_odd"]
    assert gateway.request("PATCH", "/v1/workflows/wf_even", {"filter": None}).status == 200
    again = gateway.request("POST", "/v1/events", event("stream-even", 6), **{"Idempotency-Key": "filters"})
    assert (again.status, again.content) == (202, first.content)
    fresh = gateway.request("POST", "/v1/events", event("stream-even", 6))
    assert [route["workflow_id"] for route in fresh.value["routes"]] == ["wf_odd", "wf_even"]
    await_status(gateway, [first.value["id"], fresh.value["id"]])
    assert numbers(receiver.at("/even")) == [0, 2, 4, 6]
    assert numbers(receiver.at("/odd")) == [1, 3, 6, 6]


@pytest.mark.parametrize("partitions", [2, SHARDS + 1])
def test_a_strangers_topic_with_other_partitions_is_not_taken_over(
    atlas: Installation, partitions: int
) -> None:
    gateway = atlas.nodes[0].ready()
    name = f"strangers-{partitions}"
    topic = event_topic("live", str(gateway.said["workspace_id"]), name)
    admin = AdminClient({"bootstrap.servers": atlas.bootstrap})
    admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(READY_MAX_S)
    refused = gateway.request("POST", "/v1/event-streams", {"name": name})
    assert (refused.status, refused.value["error"]["code"]) == (409, "already_exists")
    assert gateway.request("POST", "/v1/events", event(name)).status == 404
    admin.delete_topics([topic])[topic].result(READY_MAX_S)

    def made() -> bool:  # brokers forget a topic a little later
        return gateway.request("POST", "/v1/event-streams", {"name": name}).status == 201

    eventually(made, "the name is free again")
    assert gateway.request("POST", "/v1/events", event(name)).status == 202


def test_a_gateway_restarts_into_the_same_answers(atlas: Installation, receiver: Receiver) -> None:
    gateway = atlas.nodes[0]
    make_route(gateway, "again", receiver)
    body = event("stream-again", 7)
    first = gateway.request("POST", "/v1/events", body, **{"Idempotency-Key": "again-7"})
    gateway.kill()
    atlas.nodes[0] = gateway = atlas.start("gateway").ready()
    second = gateway.request("POST", "/v1/events", body, **{"Idempotency-Key": "again-7"})
    assert (second.status, second.content) == (202, first.content)
    assert second.headers["idempotent-replayed"] == "true"
    other = gateway.request("POST", "/v1/events", event("stream-again", 8), **{"Idempotency-Key": "again-7"})
    assert other.status == 409
    assert len(receiver.wait_for(1, "/again")) == 1


def test_a_second_gateway_is_refused_with_one_line(atlas: Installation) -> None:
    second = atlas.start("gateway")
    assert second.process.wait(READY_MAX_S) == 1
    [line] = [line for line in second.stderr().splitlines() if line.startswith("atlas: ")]
    assert "in use by process" in line


def test_a_second_projector_stands_by_and_takes_over(atlas: Installation, receiver: Receiver) -> None:
    gateway, first = atlas.nodes[:2]
    second = atlas.start("projector")
    eventually(lambda: "projector stands by" in second.stderr(), "stands by")
    make_route(gateway, "standby", receiver)
    ids = send(gateway, "standby", 5)
    await_status(gateway, ids)
    killed_s = time.monotonic()
    first.kill()
    atlas.nodes[1] = second.announced()
    more = send(gateway, "standby", 9)  # the first five were sent before
    await_status(gateway, more)
    assert time.monotonic() - killed_s < READY_MAX_S
    assert numbers(receiver.wait_for(9, "/standby")) == list(range(9))


def test_two_deliverers_share_the_shards_and_survive_each_other(
    atlas: Installation, receiver: Receiver
) -> None:
    gateway, _, first = atlas.nodes[:3]
    make_route(gateway, "shared", receiver)
    second = atlas.start("deliverer").ready()
    eventually(lambda: second.claims() == SHARDS // 2, "shards shared", READY_MAX_S)
    ids = send(gateway, "shared", 200)
    first.kill()
    await_status(gateway, ids)
    found = [(d.headers["x-atlas-delivery-id"], d.attempt) for d in receiver.at("/shared")]
    assert {attempt for _, attempt in found} == {1}, "an attempt cut off by a kill keeps its number"
    assert len({delivery for delivery, _ in found}) == 200
    atlas.nodes[2] = second


def test_a_topic_that_is_deleted_and_made_again_is_read_from_its_start(
    atlas: Installation, receiver: Receiver
) -> None:
    gateway = atlas.nodes[0].ready()
    make_route(gateway, "deleted", receiver)
    await_status(gateway, send(gateway, "deleted", 300)[-1:])
    receiver.wait_for(300, "/deleted")
    admin = AdminClient({"bootstrap.servers": atlas.bootstrap})
    topic = event_topic("live", str(gateway.said["workspace_id"]), "stream-deleted")
    admin.delete_topics([topic])[topic].result(READY_MAX_S)
    ids: list[str] = []

    def takes_events() -> bool:
        answer = gateway.request("POST", "/v1/events", event("stream-deleted", 1_000 + len(ids)))
        if answer.status == 202:
            ids.append(answer.value["id"])
        return len(ids) == 20

    eventually(takes_events, "the topic is there again", READY_MAX_S)

    await_delivered(gateway, ids, READY_MAX_S)  # once the read model, ahead of the log, is made anew
    assert numbers(receiver.arrived) == [*range(300), *range(1_000, 1_020)]
    for node in atlas.nodes[:3]:
        node.ready()


def test_the_read_model_is_made_anew_and_compared_while_all_go_on(
    atlas: Installation, receiver: Receiver
) -> None:
    gateway = atlas.nodes[0].ready()
    make_route(gateway, "rebuilt", receiver)
    ids = send(gateway, "rebuilt", 100)
    await_status(gateway, ids)
    token = str(gateway.said["operator_token"])
    for path, ended in (("/admin/v1/verify", "equal"), ("/admin/v1/rebuilds", "records_folded")) * 2:
        asked = request(gateway.url, "POST", path, {}, token)
        assert asked.status == 202, asked
        one = f"{path}/{asked.value['id']}"
        job: dict[str, Any] = {}

        def over(one: str = one, job: dict[str, Any] = job) -> bool:
            job.update(request(gateway.url, "GET", one, None, token).value)
            return bool(job["status"] == "completed")

        eventually(over, f"{path} has ended", READY_MAX_S)
        assert job[ended], job
        assert gateway.request("GET", f"/v1/events/{ids[0]}").value["status"] == "delivered"


def test_every_part_ends_cleanly_when_asked(bootstrap: str, atlas: Installation) -> None:
    for node in atlas.nodes[:3]:
        node.ready()
        assert node.stop() == 0, node.stderr()[-2_000:]
        assert "Traceback" not in node.stderr(), node.stderr()[-4_000:]
