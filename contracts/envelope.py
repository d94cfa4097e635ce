"""The envelope of every event: CloudEvents 1.0 in JSON, structured mode."""

from typing import Generic, Literal, TypeVar

from contracts.fact import Fact, Instant, Slug, plain, pseudonym

CONTENT_TYPE = "application/cloudevents+json"

DataT = TypeVar("DataT", bound=Fact)


class Event(Fact, Generic[DataT]):
    """One event. Attribute names are those of CloudEvents 1.0, which allows lower-case letters and digits only."""

    specversion: Literal["1.0"] = plain("Version of CloudEvents.", default="1.0")
    id: str = plain("Unique with `source`; consumers use it to recognise a repeated event.", min_length=1)
    source: str = plain("The producer: /REGION/SERVICE.", pattern=r"^/[^/]+/[^/]+$")
    type: str = plain("Name and version of the event, such as kivuko.study.completed.v1.")
    subject: str = pseudonym("What the event is about, mostly a StudyInstanceUID.")
    time: Instant = plain("When the producer recorded the event, UTC.")
    datacontenttype: Literal["application/json"] = plain("Type of `data`.", default="application/json")
    traceparent: str | None = plain("W3C trace context of the producing span.", default=None)
    tracestate: str | None = plain("W3C trace state of the producing span.", default=None)
    tenant: Slug = plain("Tenant that owns what the event is about; `kivuko` for the network as a whole.")
    site: Slug | None = plain("Site that the event concerns, where there is one.", default=None)
    sequence: int = plain("The producer's own count of its events, from 1, without gaps: a gap is a loss.", ge=1)
    data: DataT = plain("The fact itself; the type says which model.")
