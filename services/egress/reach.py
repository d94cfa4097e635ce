"""How a destination of the network definition is reached, or why it can't be."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from contracts.definition import Definition
from services.egress.folder import FolderTarget

#: Writers at a time to a folder, where its destination does not say: as for a node.
_WRITERS: Final = 2


@dataclass(frozen=True)
class Target:
    """Where to call, and as whom.

    Attributes
    ----------
    associations
        At a time, of all replicas together.
    tls
        Gives the context of a new connection; none without TLS. Not compared: it is made anew with its files.
    """

    host: str
    port: int
    called_aet: str
    calling_aet: str
    associations: int
    tls: Callable[[], ssl.SSLContext] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Obstacle:
    """Why nothing may be sent to a destination; deliveries are held until a network version removes it."""

    reason: str


NO_DEFINITION = Obstacle("there is no network definition yet: run `kivuko apply FILE`")


#: Gives the TLS context of connections to a node, by the name of the secret with our certificate; none: the network's.
Contexts = Callable[[str | None], "Callable[[], ssl.SSLContext] | Obstacle"]


def no_contexts(_secret: str | None) -> Obstacle:
    """Have no certificate."""
    return Obstacle("there is no certificate to call with")


def reach(definition: Definition | None, key: str, contexts: Contexts) -> Target | FolderTarget | Obstacle:
    """Tell how a destination is reached under a network definition.

    What the definition asks for and this release can't do is an obstacle, never left out: a node with TLS gets nothing
    in plain.
    """
    if definition is None:
        return NO_DEFINITION
    destination = definition.destinations.get(key)
    if destination is None:
        return Obstacle(f"destination {key} is not in the network definition: add it again, or leave it held")
    if destination.node is None and destination.folder is None:
        kind = "STOW-RS" if destination.stow else "S3" if destination.s3 else "group"
        return Obstacle(f"destination {key} is of kind {kind}, to which this release cannot send")
    if destination.node is None:
        return FolderTarget(Path(str(destination.folder)), destination.associations or _WRITERS)
    return _node(definition, key, destination.node, destination.associations, contexts)


def _node(
    definition: Definition, key: str, node_key: str, associations: int | None, contexts: Contexts
) -> Target | Obstacle:
    node = definition.nodes.get(node_key)
    if node is None:
        return Obstacle(f"node {node_key} of destination {key} is not in the network definition")
    if node.retired:
        return Obstacle(f"node {node_key} of destination {key} is retired")
    if node.host is None or node.port is None:
        return Obstacle(f"node {node_key} of destination {key} has no host and port to call")
    tls = None
    if node.tls is not False:
        found = contexts(None if node.tls is True else node.tls.client)
        if isinstance(found, Obstacle):
            return Obstacle(f"node {node_key} of destination {key} asks for TLS: {found.reason}")
        tls = found
    return Target(
        host=node.host,
        port=node.port,
        called_aet=definition.aet_of(node_key),
        calling_aet=definition.aets[0],
        associations=associations or node.associations,
        tls=tls,
    )
