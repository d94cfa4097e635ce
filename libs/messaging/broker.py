"""The broker by URL: RabbitMQ, or the embedded transport under the same FastStream handlers."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import unquote, urlsplit

from faststream.rabbit import Channel, RabbitBroker
from faststream.rabbit.utils import build_url

from libs.messaging.bus import Bus
from libs.messaging.channel import EmbeddedConnection
from libs.telemetry import log

if TYPE_CHECKING:
    from aio_pika import RobustConnection

# FastStream has just given its logger a way to standard output of its own.
log.take_over()

#: Pause between two attempts to reach RabbitMQ again, in seconds.
_RECONNECT_S = 2.0


class KivukoBroker(RabbitBroker):
    """A broker whose subscribers lose nothing while they start."""

    async def start(self) -> None:
        """Connect and start all subscribers."""
        # FastStream drops, neither handled nor settled, what arrives between the consumer's registration and the
        # moment its subscriber calls itself running; there the messages would stay until the connection ends.
        for subscriber in self.subscribers:
            subscriber.running = True
        await super().start()


class EmbeddedBroker(KivukoBroker):
    """The broker on a SQLite file.

    FastStream injects nothing into subscribers, here and on RabbitMQ: that costs more than all else it does.

    Parameters
    ----------
    path
        The file. One process at a time.
    default_channel
        Settings of the channel that publishes.
    """

    def __init__(self, path: Path, default_channel: Channel) -> None:
        super().__init__(
            default_channel=default_channel,
            apply_types=False,
            logger=None,
            specification_url=f"sqlite:///{path.name}",
        )
        self._path = path

    async def _connect(self) -> "RobustConnection":
        connection = EmbeddedConnection(Bus(self._path, time.time))
        await connection.connect()
        robust = cast("RobustConnection", connection)
        self.config.connect(robust)
        self._channel = await self.config.channel_manager.get_channel()
        return robust


def make_broker(url: str, *, instance: str) -> RabbitBroker:
    """Make a broker, not connected yet.

    Parameters
    ----------
    url
        `amqp://USER:PASSWORD@HOST:PORT/VHOST`, `amqps://...`, or `sqlite:///FILE`.
    instance
        Name of this replica, by which RabbitMQ's operator sees the connection.

    Raises
    ------
    ValueError
        The URL is neither.
    """
    # Without `on_return_raises` a message that no queue takes would vanish without a word.
    publishing = Channel(publisher_confirms=True, on_return_raises=True)
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        path = Path(unquote(parts.path.removeprefix("/")))
        if parts.netloc or not path.name:
            raise ValueError("A broker in a file is written sqlite:///FILE, with an absolute path sqlite:////FILE.")
        return EmbeddedBroker(path, publishing)
    if parts.scheme in ("amqp", "amqps"):
        return KivukoBroker(
            build_url(url, client_properties={"connection_name": f"kivuko {instance}"}),  # type: ignore[arg-type] # FastStream's TypedDict lacks RabbitMQ's own name for it
            default_channel=publishing,
            apply_types=False,
            reconnect_interval=_RECONNECT_S,
            logger=None,
        )
    raise ValueError(
        f"A broker cannot be reached by {parts.scheme or 'an address without a scheme'}: set KIVUKO_BROKER_URL to "
        f"amqp://USER:PASSWORD@HOST:PORT/VHOST, amqps://... or sqlite:///FILE."
    )
