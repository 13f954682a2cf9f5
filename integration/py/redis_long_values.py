"""redis-py sets, appends to and reads long values. Usage: redis_long_values.py PORT FILE KEY; prints the SHA-256."""

import hashlib
import sys

import redis


def main():
    port, path, key = sys.argv[1:]
    with open(path, "rb") as file:
        value = file.read()
    for protocol in (2, 3):
        client = redis.Redis(port=int(port), protocol=protocol)
        assert client.set(key, value) is True
        assert client.strlen(key) == len(value)
        assert client.get(key) == value
        assert client.getrange(key, 1_000_000, 1_999_999) == value[1_000_000:2_000_000]
        with client.pipeline() as pipe:
            pipe.set(key + "2", value[:70_000]).append(key + "2", value[70_000:]).get(key + "2").delete(key + "2")
            assert pipe.execute() == [True, len(value), value, 1]
        assert client.mget(key, "missing", key) == [value, None, value]
        digest = hashlib.sha256(client.get(key)).hexdigest()
    print(digest)


if __name__ == "__main__":
    main()
