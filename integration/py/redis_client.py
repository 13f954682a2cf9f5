"""redis-py against one port: RESP2, RESP3 and pipelines. Usage: redis_client.py PORT"""

import sys

import redis


def exercise(client, prefix):
    key = prefix + "key"
    assert client.ping() is True
    assert client.set(key, b"\x00\xff\r\nvalue") is True
    assert client.get(key) == b"\x00\xff\r\nvalue"
    assert client.set(key, "other", nx=True) is None
    assert client.set(key, "next", get=True) == b"\x00\xff\r\nvalue"
    assert client.append(key, "+") == 5
    assert client.strlen(key) == 5
    assert client.getrange(key, 0, -2) == b"next"
    assert client.set(prefix + "ttl", "v", px=100_000) is True
    assert 0 < client.pttl(prefix + "ttl") <= 100_000
    assert client.persist(prefix + "ttl") is True
    assert client.ttl(prefix + "ttl") == -1
    assert client.mset({prefix + "a": 1, prefix + "b": 2}) is True
    assert client.mget(prefix + "a", prefix + "missing", prefix + "b") == [b"1", None, b"2"]
    assert client.incrby(prefix + "n", 41) == 41
    assert client.incr(prefix + "n") == 42
    assert client.incrbyfloat(prefix + "f", 1.5) == 1.5
    assert client.type(key) == b"string"
    assert client.rename(key, prefix + "renamed") is True
    assert client.exists(key, prefix + "renamed") == 1
    assert sorted(client.scan_iter(match=prefix + "[ab]", count=3)) == [(prefix + "a").encode(), (prefix + "b").encode()]
    assert client.delete(prefix + "a", prefix + "missing") == 1
    assert client.get(prefix + "a") is None
    try:
        client.incr(prefix + "renamed")
    except redis.ResponseError as error:
        assert str(error) == "value is not an integer or out of range", error
    else:
        raise AssertionError("INCR of a word must fail")


def pipelines(client, prefix):
    with client.pipeline(transaction=False) as pipe:
        for number in range(1_000):
            pipe.set(f"{prefix}p{number}", number)
            pipe.get(f"{prefix}p{number}")
        replies = pipe.execute()
    assert replies[0::2] == [True] * 1_000
    assert replies[1::2] == [str(number).encode() for number in range(1_000)], "a read follows its write"
    with client.pipeline() as pipe:
        pipe.set(prefix + "t", "1").incr(prefix + "t").get(prefix + "t")
        assert pipe.execute() == [True, 2, b"2"]
    with client.pipeline() as pipe:
        pipe.watch(prefix + "w")
        client.set(prefix + "w", "somebody else")
        pipe.multi()
        pipe.set(prefix + "w", "mine")
        try:
            pipe.execute()
        except redis.WatchError:
            pass
        else:
            raise AssertionError("a watched key changed")
    assert client.get(prefix + "w") == b"somebody else"


def main():
    port = int(sys.argv[1])
    for protocol in (2, 3):
        client = redis.Redis(host="127.0.0.1", port=port, protocol=protocol, socket_timeout=20)
        exercise(client, f"py{protocol}:")
        pipelines(client, f"py{protocol}:")
        info = client.info()
        assert info["redis_version"].split(".")[0] >= "4", info
        assert info["loading"] == 0 and info["maxmemory_policy"] == "noeviction"
        assert client.client_setname("tester") is True
        assert client.client_getname() in ("tester", b"tester")
        assert client.client_id() > 0
        assert client.dbsize() > 0
        other = redis.Redis(host="127.0.0.1", port=port, db=3, protocol=protocol)
        assert other.get(f"py{protocol}:n") is None, "databases are apart"
        client.close()
    print("redis-py", redis.__version__, "ok")


main()
