"""Events about the room that is left for studies. Producer: ingest."""

from typing import Literal

from contracts.fact import Fact, plain

RoomState = Literal["ample", "low", "full"]


class RoomChanged(Fact):
    """The room of a replica's disk changed its state.

    Spool full: what arrives is refused with A700 until there is room. Objects full: what arrives waits in the spool.
    """

    replica: str = plain("Name of the replica.")
    place: str = plain("What is short of room: spool or objects.")
    state: RoomState = plain("ample, low (an alarm: act now), or full (nothing more is taken into it).")
    free: int = plain("Bytes free.", ge=0)
    needed: int = plain("Bytes below which the state is full.", ge=0)
