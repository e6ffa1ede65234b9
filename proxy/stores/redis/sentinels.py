"""Which server is the master of a service, as its sentinels say."""

import asyncio
from collections import Counter
from dataclasses import replace

from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from proxy.core.errors import StoreError, StoreUnavailableError
from proxy.stores.redis.address import Place, RedisAddress
from proxy.stores.redis.node import CONNECT_S, connection_to
from proxy.stores.redis.replies import as_int, as_text


async def find_master(address: RedisAddress) -> Place:
    """Ask all sentinels; return what most of them say.

    One that was cut off together with a master that was replaced goes on naming it.

    Raises:
        StoreUnavailableError: if none of them names one.
    """
    problem = StoreUnavailableError(
        "no sentinel answers", hint="the store's URL names sentinels, by default at port 26379"
    )
    votes: Counter[Place] = Counter()
    async with asyncio.TaskGroup() as group:
        asks = [group.create_task(_ask(place, address)) for place in address.places]
        for each in asyncio.as_completed(asks):
            found = await each
            if isinstance(found, StoreUnavailableError):
                problem = found
            elif found is not None:
                votes[found] += 1
                if votes[found] > len(asks) / 2:
                    break
        for ask in asks:
            ask.cancel()
    if not votes:
        raise problem
    # Where votes are equal, the first to answer decides.
    return votes.most_common(1)[0][0]


async def _ask(place: Place, address: RedisAddress) -> Place | StoreUnavailableError | None:
    """Ask one sentinel (Redis Sentinel client spec, steps 1 and 2)."""
    sentinel = connection_to(
        place,
        replace(
            address,
            username=address.sentinel_username,
            password=address.sentinel_password,
            database=0,
        ),
    )
    try:
        # Whoever waits has one time limit for all of it: where the master's machine died
        # with its sentinel, the new master must get its turn.
        async with asyncio.timeout(min(CONNECT_S, address.timeout_s / 2)):
            await sentinel.connect()  # type: ignore[no-untyped-call]
            await sentinel.send_command(
                "SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.service or ""
            )
            found = await sentinel.read_response()
        if not isinstance(found, list):
            return StoreUnavailableError(
                f"no sentinel knows a master of {address.service!r}",
                hint="SENTINEL MASTERS lists what they know; its name begins the URL's path",
            )
        host, port = found
        return as_text(host), as_int(port)
    except (AuthenticationError, NoPermissionError):
        return StoreUnavailableError(
            "a sentinel refused the credentials or their rights",
            hint="sentinels have their own: sentinel_username and sentinel_password in the URL",
        )
    except (RedisError, OSError, StoreError, TimeoutError, ValueError):
        return None
    finally:
        await sentinel.disconnect(nowait=True)
