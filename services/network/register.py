"""Puts definitions in force: a document that passes becomes a version, with its event; any other changes nothing."""

import asyncio
from collections.abc import Sequence
from typing import Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.definition import Definition
from contracts.fact import Fact
from contracts.network import NetworkApplied
from libs.clock import Clock
from libs.definition import finding, lint
from libs.definition.difference import Change, difference
from libs.definition.document import DefinitionError
from libs.definition.force import not_in_force
from libs.definition.reading import read
from libs.definition.validation import check
from libs.storage.database import Database
from libs.telemetry import log
from services.network import repository
from services.network.repository import Entry, TakenError, Version

#: Tenant of what concerns the network as a whole.
NETWORK_TENANT = "kivuko"


_log = log.get(__name__)


class Emitter(Protocol):
    """What is needed of the outbox."""

    async def emit(self, tx: AsyncSession, data: Fact, *, subject: str, tenant: str, site: str | None = None) -> str:
        """Write an event into the transaction."""
        ...


class Finding(BaseModel):
    """Something in a document that people should look at."""

    model_config = ConfigDict(frozen=True)

    level: finding.Level = Field(description="warning: likely a mistake; note: good to know.")
    kind: str = Field(description="never, always, unreachable, overlap, loop, unknown, or retired.")
    line: int
    column: int
    path: str = Field(description="Part of the definition, such as rules[2].when.")
    message: str
    hint: str = Field(description="What to do about it; empty where the message says it.")

    @classmethod
    def of(cls, found: finding.Finding) -> Self:
        """Say what was found."""
        said = found.problem
        return cls(
            level=found.level,
            kind=found.kind,
            line=said.line,
            column=said.column,
            path=said.path,
            message=said.message,
            hint=said.hint,
        )


class Applied(BaseModel):
    """What applying a document did, or would do."""

    model_config = ConfigDict(frozen=True)

    applied: bool = Field(description="Whether a new version is in force; false for a dry run, or if nothing is new.")
    dry_run: bool = Field(description="Whether it was only asked what would change.")
    version: int | None = Field(description="Version in force now; null before the first.")
    previous_version: int | None = Field(description="Version in force before.")
    document_hash: str = Field(description="SHA-256 of the document's text.")
    changes: Sequence[Change] = Field(description="Differences to the version before.")
    not_in_force: Sequence[str] = Field(description="Parts that are kept but that this release does not carry out.")
    findings: Sequence[Finding] = Field(default=(), description="What is valid and yet likely a mistake, in its rules.")


class OvertakenError(Exception):
    """Someone else applied a version meanwhile; nothing was changed."""


class UnexpectedVersionError(Exception):
    """The version in force is not the one that the caller built on; nothing was changed."""


class NoSuchVersionError(Exception):
    """There is no version with this number."""


class Register:
    """The versions of the network definition.

    Parameters
    ----------
    database
        Of the service `network`.
    outbox
        Takes the event in the same transaction.
    clock
        The time in UTC.
    """

    def __init__(self, database: Database, outbox: Emitter, clock: Clock) -> None:
        self._database = database
        self._outbox = outbox
        self._clock = clock

    async def apply(
        self,
        text: str,
        *,
        filename: str,
        actor: str,
        comment: str | None = None,
        expected: int | None = None,
        dry_run: bool = False,
        rollback_of: int | None = None,
    ) -> Applied:
        """Put a document in force; a document with the very text that is in force makes no new version.

        Parameters
        ----------
        text
            The document.
        filename
            Its name, for problems and the history.
        actor
            Who asks.
        comment
            Why.
        expected
            Version that has to be in force, 0 for none; not checked if left out.
        dry_run
            Check and compare only.
        rollback_of
            The version that the text was taken from.

        Raises
        ------
        DefinitionError
            With all that is wrong with the document.
        UnexpectedVersionError, OvertakenError
            Someone else applied a version.
        """
        async with self._database.reading() as tx:
            base = await repository.latest(tx)
            before = None if base is None else await _readable(tx, base.version)
        in_force = None if base is None else base.version
        if expected is not None and expected != (in_force or 0):
            raise UnexpectedVersionError(f"version {in_force or 'none'} is in force, not {expected or 'none'}")
        document_hash, definition, findings = await asyncio.to_thread(_checked, text, filename)
        changes = difference(before, definition)
        sentences = not_in_force(definition)
        answer = Applied(
            applied=False,
            dry_run=dry_run,
            version=in_force,
            previous_version=in_force,
            document_hash=document_hash,
            changes=changes,
            not_in_force=sentences,
            findings=findings,
        )
        if dry_run or (base is not None and base.document_hash == document_hash and before is not None):
            return answer
        new = Version(
            version=(in_force or 0) + 1,
            filename=filename,
            document_hash=document_hash,
            applied_at=self._clock(),
            applied_by=actor,
            comment=comment,
            rollback_of=rollback_of,
            change_count=len(changes),
            not_in_force=tuple(sentences),
            text=text,
        )
        await self._keep(new, definition, base)
        return answer.model_copy(update={"applied": True, "version": new.version})

    async def apply_at_start(self, text: str, *, filename: str) -> Applied | None:
        """Put a document in force unless its very text was in force before; None if it was.

        A restart, after a power cut say, must not undo what people have applied since. Raises as `apply` does.
        """
        async with self._database.reading() as tx:
            known = await repository.version_of(tx, read(text, filename).sha256)
        if known is not None:
            _log.info("definition of the start was applied before, and is left as it is", version=known)
            return None
        return await self.apply(text, filename=filename, actor="local", comment="at the start")

    async def rollback(
        self,
        version: int,
        *,
        actor: str,
        comment: str | None = None,
        expected: int | None = None,
        dry_run: bool = False,
    ) -> Applied:
        """Apply the document of an earlier version again, as a new version, if this release still takes it.

        Raises as `apply` does, and NoSuchVersionError.
        """
        async with self._database.reading() as tx:
            found = await repository.version_text(tx, version)
        if found is None:
            raise NoSuchVersionError(f"there is no version {version}")
        return await self.apply(
            found.text,
            filename=found.filename,
            actor=actor,
            comment=comment,
            expected=expected,
            dry_run=dry_run,
            rollback_of=version,
        )

    async def _keep(self, new: Version, definition: Definition, base: Entry | None) -> None:
        try:
            async with self._database.transaction() as tx:
                if await repository.latest(tx) != base:
                    raise OvertakenError(f"another version was applied while {new.filename} was checked")
                await repository.add_version(tx, new, definition)
                event = NetworkApplied(
                    version=new.version,
                    previous_version=None if base is None else base.version,
                    document_hash=new.document_hash,
                    applied_by=new.applied_by,
                    rollback_of=new.rollback_of,
                    change_count=new.change_count,
                    not_in_force=new.not_in_force,
                )
                await self._outbox.emit(tx, event, subject=f"network/{new.version}", tenant=NETWORK_TENANT)
        except TakenError as error:
            raise OvertakenError(f"another version was applied while {new.filename} was checked") from error


async def _readable(tx: AsyncSession, version: int) -> Definition | None:
    try:
        return await repository.definition(tx, version)
    except ValidationError:
        # An older release took it and this one does not: the way out is to apply a document, so that must work.
        return None


def _checked(text: str, filename: str) -> tuple[str, Definition, list[Finding]]:
    document = read(text, filename)
    found = check(document)
    if isinstance(found, list):
        raise DefinitionError(found)
    return document.sha256, found, [Finding.of(one) for one in lint.lint(document, found)]
