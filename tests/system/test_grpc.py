"""The agents' contract in proto/, spoken by a stock gRPC client of another language."""

import importlib
import os
import sys

import grpc
import pytest

from lib import postgres
from lib.alpn_shim import AlpnShim
from lib.process import SLOW, run, wait_until
from lib.warren import REPOSITORY

DEADLINE = 10 * SLOW


@pytest.fixture(scope="module")
def stubs(tmp_path_factory):
    out = tmp_path_factory.mktemp("stubs")
    proto = os.path.join(REPOSITORY, "proto")
    run([sys.executable, "-m", "grpc_tools.protoc", f"-I{proto}", f"--python_out={out}",
         f"--grpc_python_out={out}", "warren/v1/agent.proto"])
    sys.path.insert(0, str(out))
    yield importlib.import_module("warren.v1.agent_pb2"), importlib.import_module("warren.v1.agent_pb2_grpc")
    sys.path.remove(str(out))


class Client:
    def __init__(self, bench, hub, name, stubs, network="lan"):
        self.messages, services = stubs
        self.agent = hub.agent(name, network=network)
        self.agent.process.stop()
        shim = bench.keep(AlpnShim(hub, "warren-agent/1", self.agent.certificate_path, self.agent.key_path))
        self.channel = grpc.insecure_channel(shim.target)
        self.service = services.AgentServiceStub(self.channel)

    def connect(self, **fields):
        return self.service.Connect(self.messages.ConnectRequest(version="0.0", hostname="python", **fields))


def until(events, kind):
    """Reads events up to one of this kind: (its value, kinds before it)."""
    before = []
    for event in events:
        if event.WhichOneof("event") == kind:
            return getattr(event, kind), before
        before.append(event.WhichOneof("event"))
    raise AssertionError(f"the stream ended before {kind}, after {before}")


@pytest.fixture
def client(bench, hub, stubs):
    return Client(bench, hub, "py", stubs)


def code_of(error):
    return error.value.code()


def test_a_python_client_logs_in_and_gets_the_tunnels_of_its_network(bench, hub, client, stubs, echo_server):
    made = hub.tunnel(echo_server.address, wait=False)
    events = client.connect(allow=["10.0.0.0/8"])
    welcome, _ = until(events, "welcome")
    assert welcome.epoch > 0 and welcome.agent == client.agent.id and welcome.network.startswith("net_")
    assert welcome.lease_ms > welcome.renew_ms > 0
    tunnel, _ = until(events, "tunnel")
    assert (tunnel.id, tunnel.name, tunnel.target, tunnel.protocol) == (made["id"], "web", echo_server.address, "tcp")
    until(events, "snapshot_end")
    shown = wait_until(lambda: (s := client.agent.identity()["status"])["phase"] == "online" and s, "online")
    assert shown["session"]["hostname"] == "python" and shown["session"]["allow"] == ["10.0.0.0/8"]

    later = hub.tunnel(echo_server.address, name="later", wait=False)
    assert until(events, "tunnel")[0].id == later["id"]
    hub.admin.delete("/api/v1/tunnels/later")
    assert until(events, "tunnel_removed")[0].id == later["id"]
    events.cancel()
    wait_until(lambda: client.agent.identity()["status"]["phase"] == "offline", "offline")


def take(client, epoch, *leases):
    m = client.messages
    client.service.TakeLeases(m.TakeLeasesRequest(
        session_epoch=epoch, leases=[m.Lease(tunnel=t, epoch=e) for t, e in leases]), timeout=DEADLINE)


def test_leases_are_offered_taken_renewed_and_released(bench, hub, client, stubs, echo_server):
    m = client.messages
    made = hub.tunnel(echo_server.address, wait=False)
    events = client.connect()
    epoch = until(events, "welcome")[0].epoch
    offer, _ = until(events, "lease_offered")
    assert offer.tunnel == made["id"] and offer.epoch > 0 and not offer.check_first
    assert hub.admin.get("/api/v1/tunnels/web")["status"]["lease"]["agent"] is None
    assert "offered to py" in hub.admin.get("/api/v1/tunnels/web")["status"]["reason"]
    take(client, epoch, (offer.tunnel, offer.epoch))
    holder = hub.admin.get("/api/v1/tunnels/web")["status"]["lease"]["agent"]
    assert holder["id"] == client.agent.id and holder["epoch"] == offer.epoch
    renewed = client.service.RenewLeases(m.RenewLeasesRequest(session_epoch=epoch), timeout=DEADLINE)
    assert [(x.tunnel, x.epoch) for x in renewed.leases] == [(made["id"], offer.epoch)]

    other = Client(bench, hub, "py2", stubs)
    other_events = other.connect()
    other_epoch = until(other_events, "welcome")[0].epoch
    take(other, other_epoch, (made["id"], offer.epoch))
    assert until(other_events, "lease_lost")[0].epoch == offer.epoch, "it was not offered to this one"
    assert hub.admin.get("/api/v1/tunnels/web")["status"]["lease"]["agent"]["id"] == client.agent.id

    client.service.ReleaseLease(m.ReleaseLeaseRequest(session_epoch=epoch, tunnel=made["id"]), timeout=DEADLINE)
    assert until(events, "lease_lost")[0].epoch == offer.epoch
    again, _ = until(other_events, "lease_offered")
    assert again.tunnel == made["id"] and again.epoch > offer.epoch
    take(other, other_epoch, (again.tunnel, again.epoch))
    assert hub.admin.get("/api/v1/tunnels/web")["status"]["lease"]["agent"]["id"] == other.agent.id


def test_an_old_session_is_superseded_and_refused(hub, client, echo_server):
    m = client.messages
    made = hub.tunnel(echo_server.address, wait=False)
    first = client.connect()
    old = until(first, "welcome")[0].epoch
    second = client.connect()
    new = until(second, "welcome")[0].epoch
    assert new > old
    with pytest.raises(grpc.RpcError) as error:
        for _ in first:
            pass
    assert code_of(error) == grpc.StatusCode.ABORTED and "supersede" in error.value.details()
    with pytest.raises(grpc.RpcError) as error:
        client.service.ReleaseLease(m.ReleaseLeaseRequest(session_epoch=old, tunnel=made["id"]), timeout=DEADLINE)
    assert code_of(error) == grpc.StatusCode.ABORTED


def test_an_agent_that_logs_in_over_and_over_is_slowed_down(hub, client):
    """Each login is a transaction, of which one agent gets no more than its share."""
    def log_in():
        try:
            until(client.connect(), "welcome")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and "too often" in error.details()
            return False
        return True
    assert sum(1 for _ in iter(log_in, False)) >= 60
    assert hub.metric("warren_agent_logins_refused_total") == 1
    hub.agent("another")
    wait_until(log_in, "the agent to be let in again")


def test_a_login_that_was_given_up_leaves_nobody_online(bench, stubs):
    """Its client is gone when the login has been written, and the database must not say otherwise."""
    server = bench.postgres()
    url = server.new_database()
    client = Client(bench, bench.hub(db=url), "py", stubs)
    database = url.split("/")[3].split("?")[0]

    def session():
        epoch, ended = server.sql("select epoch, disconnected is not null from agent_session", database).split("|")
        return int(epoch), ended == "t"

    def has_come():
        """What was sent before on that connection has been heard when this is refused."""
        with pytest.raises(grpc.RpcError) as error:
            client.service.RenewLeases(client.messages.RenewLeasesRequest(session_epoch=1), timeout=DEADLINE)
        assert code_of(error) == grpc.StatusCode.ABORTED
    wait_until(lambda: session()[1], "the agent's own session to end")
    before = session()[0]
    holder = bench.keep(postgres.Holder(url, bench.directory, seconds=60))
    events = client.connect()
    has_come()
    events.cancel()
    has_come()
    assert session()[0] == before
    holder.close()
    wait_until(lambda: session()[0] > before, "the login to be written", 20)
    wait_until(lambda: session()[1], "its end")


def test_tunnels_of_other_networks_are_not_to_be_had(bench, hub, client, stubs, echo_server):
    m = client.messages
    hub.admin.post("/api/v1/networks", {"name": "elsewhere"})
    made = hub.tunnel(echo_server.address, network="elsewhere", wait=False)
    events = client.connect()
    epoch = until(events, "welcome")[0].epoch
    _, before = until(events, "snapshot_end")
    assert "tunnel" not in before
    for tunnel in (made["id"], "tun_0000000000000000", "", "x" * 1000):
        with pytest.raises(grpc.RpcError) as error:
            client.service.ReleaseLease(m.ReleaseLeaseRequest(session_epoch=epoch, tunnel=tunnel), timeout=DEADLINE)
        assert code_of(error) in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.PERMISSION_DENIED,
                                  grpc.StatusCode.INVALID_ARGUMENT)
        take(client, epoch, (tunnel, 1))
        assert until(events, "lease_lost")[0].tunnel == tunnel


def test_wrong_calls_get_the_status_that_grpc_prescribes(client):
    unknown = client.channel.unary_unary("/warren.v1.AgentService/Nothing")
    with pytest.raises(grpc.RpcError) as error:
        unknown(b"", timeout=DEADLINE)
    assert code_of(error) == grpc.StatusCode.UNIMPLEMENTED
    broken = client.channel.unary_unary("/warren.v1.AgentService/ReleaseLease")
    with pytest.raises(grpc.RpcError) as error:
        broken(b"\xff\xff\xff", timeout=DEADLINE)
    assert code_of(error) in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL)
    with pytest.raises(grpc.RpcError) as error:
        broken(bytes(3 << 20), timeout=DEADLINE)
    assert code_of(error) == grpc.StatusCode.RESOURCE_EXHAUSTED
