"""A stock gRPC client (grpcio) against src/rpc: argument 1 is the tiny server of grpc_server.c.

Messages are written and read by hand, so that no generated code is needed.
"""
import subprocess
import sys
import time

try:
    import grpc
except ImportError:
    sys.exit(77)  # skipped

DEADLINE = 10


def varint(n):
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes(out + bytes([n]))


def text(field, value):
    data = value.encode()
    return varint(field << 3 | 2) + varint(len(data)) + data


def number(field, value):
    return varint(field << 3) + varint(value)


def fields(data):
    """The message as {field: value}."""
    out, at = {}, 0

    def read():
        nonlocal at
        n = shift = 0
        while True:
            byte = data[at]
            at += 1
            n |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return n

    while at < len(data):
        key = read()
        value = read()
        if key & 7 == 2:
            at += value
            value = data[at - value:at]
        out[key >> 3] = value
    return out


def refusal(call):
    try:
        result = call()
        if not isinstance(result, bytes):
            list(result)
    except grpc.RpcError as error:
        return error.code(), error.details()
    raise AssertionError("the call succeeded")


def main():
    server = subprocess.Popen([sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    target = f"127.0.0.1:{int(server.stdout.readline())}"
    with grpc.insecure_channel(target) as channel:
        acquire = channel.unary_unary("/warren.v1.AgentService/ReleaseLease")
        connect = channel.unary_stream("/warren.v1.AgentService/Connect")

        lease = fields(acquire(number(1, 41) + text(2, "tun_1"), timeout=DEADLINE))
        assert lease[1] == b"tun_1" and lease[2] == 42, lease

        code, details = refusal(lambda: acquire(text(2, "taken"), timeout=DEADLINE))
        assert code == grpc.StatusCode.FAILED_PRECONDITION and details == "held by é: 100%\nsorry", details

        events = [fields(fields(e)[1]) for e in connect(text(1, "50") + text(2, "me"), timeout=DEADLINE)]
        assert [e[1] for e in events] == list(range(1, 51)) and events[0][3] == b"me"

        seen = 0
        try:
            for _ in connect(text(1, "5000"), timeout=DEADLINE):
                seen += 1
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.ABORTED and error.details() == "superseded"
        assert seen == 5000, seen

        waiting = connect(text(1, "wait"))
        next(iter(waiting))
        waiting.cancel()
        end = time.monotonic() + DEADLINE
        while fields(acquire(text(2, "x"), timeout=DEADLINE)).get(3) != 1:
            assert time.monotonic() < end, "the server was not told of the cancellation"

        code, _ = refusal(lambda: connect(text(1, "wait"), timeout=0.2))
        assert code == grpc.StatusCode.DEADLINE_EXCEEDED

        code, _ = refusal(lambda: channel.unary_unary("/warren.v1.AgentService/Nothing")(b"", timeout=DEADLINE))
        assert code == grpc.StatusCode.UNIMPLEMENTED
        code, _ = refusal(lambda: acquire(b"\xff\xff\xff", timeout=DEADLINE))
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        code, _ = refusal(lambda: acquire(bytes(3 << 20), timeout=DEADLINE))
        assert code == grpc.StatusCode.RESOURCE_EXHAUSTED, code
        code, _ = refusal(lambda: acquire(b"", timeout=DEADLINE, compression=grpc.Compression.Gzip))
        assert code == grpc.StatusCode.UNIMPLEMENTED, code

        calls = [acquire.future(number(1, i), timeout=DEADLINE) for i in range(500)]
        assert [fields(c.result())[2] for c in calls] == [i + 1 for i in range(500)]

    server.stdin.close()
    assert server.wait(DEADLINE) == 0


main()
